package main

import (
	"net/http"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// counter counts clicks by banner and minute in memory. The lock is held to look up a count, not to raise it. All is lost
// when the process ends.
type counter struct {
	mu     sync.RWMutex
	clicks map[minute]*atomic.Int64
}

// minute is a banner in a minute, which is given in minutes since 1970.
type minute struct{ banner, number int64 }

func runCounter([]string) error {
	c := &counter{clicks: make(map[minute]*atomic.Int64)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/banners/counter/{banner}", c.serveClick)
	mux.HandleFunc("POST /v1/banners/counter/{banner}", c.serveClick)
	mux.HandleFunc("GET /v1/banners/stats/{banner}", c.serveStats)
	return serve(mux)
}

func (c *counter) serveClick(w http.ResponseWriter, r *http.Request) {
	banner, err := strconv.ParseInt(r.PathValue("banner"), 10, 64)
	if err != nil || banner < 0 {
		http.Error(w, "the banner must be a whole number from 0", http.StatusBadRequest)
		return
	}
	c.of(minute{banner, time.Now().Unix() / 60}).Add(1)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// of gives the count of a minute, which begins with its first click.
func (c *counter) of(key minute) *atomic.Int64 {
	c.mu.RLock()
	count := c.clicks[key]
	c.mu.RUnlock()
	if count != nil {
		return count
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if count = c.clicks[key]; count == nil {
		count = new(atomic.Int64)
		c.clicks[key] = count
	}
	return count
}

// stat is how many clicks a banner had in a minute.
type stat struct {
	TS time.Time `json:"ts"`
	V  int64     `json:"v"`
}

func (c *counter) serveStats(w http.ResponseWriter, r *http.Request) {
	banner, err := strconv.ParseInt(r.PathValue("banner"), 10, 64)
	if err != nil || banner < 0 {
		http.Error(w, "the banner must be a whole number from 0", http.StatusBadRequest)
		return
	}
	stats := []stat{}
	c.mu.RLock()
	for key, count := range c.clicks {
		if key.banner == banner {
			stats = append(stats, stat{time.Unix(key.number*60, 0).UTC(), count.Load()})
		}
	}
	c.mu.RUnlock()
	sort.Slice(stats, func(i, j int) bool { return stats[i].TS.Before(stats[j].TS) })
	reply(w, http.StatusOK, "application/json", map[string]any{"stats": stats})
}
