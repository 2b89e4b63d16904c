// Command peers holds the programs that `make bench-peers` puts beside Millrace: each does what one part of Millrace
// does, as one would write it without a log.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	log.SetFlags(0)
	peers := map[string]func(arguments []string) error{
		"counter":  runCounter,
		"lookup":   runLookup,
		"shop":     runShop,
		"consumer": runConsumer,
	}
	if len(os.Args) < 2 || peers[os.Args[1]] == nil {
		log.Fatal("usage: peers counter, lookup, shop or consumer")
	}
	if err := peers[os.Args[1]](os.Args[2:]); err != nil {
		log.Fatalf("peers %s: %v", os.Args[1], err)
	}
}

// serve answers on a free port, and prints its address first.
func serve(handler http.Handler) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
	}
	return server.Serve(listener)
}

// reply answers with a value as JSON.
func reply(w http.ResponseWriter, status int, contentType string, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(body)
}
