package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"log"
	randv2 "math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	saleItems          = 10_000
	saleLimit          = 10
	reservationTime    = time.Minute
	attemptsQueued     = 1 << 16
	attemptsBatch      = 5_000
	attemptsBatchDelay = 50 * time.Millisecond
)

// shop is a flash sale in memory: each hour has new items. What was attempted is copied into Postgres after the answer.
type shop struct {
	mu   sync.Mutex
	hour int64
	item [saleItems]item
	// What each user has bought and reserved in this sale.
	held map[int64]int
	// Every code that was given in this sale.
	codes map[string]reservation
	sold  int

	attempts  chan attempt
	attempted atomic.Int64
}

// item is one that can be bought: free again once its reservation is over.
type item struct {
	user  int64
	until time.Time
	code  string
	sold  bool
}

type reservation struct {
	user int64
	item int
}

// attempt is a row of peer.attempts.
type attempt struct {
	kind    string
	user    *int64
	item    *int32
	verdict string
	at      time.Time
}

// refusals says why a request is refused, for people.
var refusals = map[string]string{
	"item_reserved": "somebody has reserved this item; it may become free again",
	"item_sold":     "this item is sold",
	"user_limit":    "this user has bought and reserved as many items as one may in a sale",
	"code_unknown":  "there is no reservation of this code",
	"code_expired":  "the reservation has lapsed: check out again",
	"code_used":     "this reservation was bought already",
}

func runShop(arguments []string) error {
	flags := flag.NewFlagSet("shop", flag.ExitOnError)
	database := flags.String("database", "", "URL of Postgres")
	flags.Parse(arguments)

	base, err := connect(*database, 2)
	if err != nil {
		return err
	}
	s := &shop{attempts: make(chan attempt, attemptsQueued)}
	go s.keep(base)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /checkout", s.serveCheckout)
	mux.HandleFunc("POST /purchase", s.servePurchase)
	mux.HandleFunc("GET /v1/sale", s.serveSale)
	return serve(mux)
}

func (s *shop) serveCheckout(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	user, err := strconv.ParseInt(query.Get("user_id"), 10, 64)
	number, err2 := strconv.Atoi(query.Get("item_id"))
	if err != nil || err2 != nil || number < 0 || number >= saleItems {
		http.Error(w, "user_id must be a number, item_id one from 0 to 9999", http.StatusBadRequest)
		return
	}
	now := time.Now()
	code, refusal := s.checkout(user, number, now)
	verdict := refusal
	if refusal == "" {
		verdict = "reserved"
	}
	id := int32(number)
	s.attempt(attempt{kind: "checkout", user: &user, item: &id, verdict: verdict, at: now})
	if refusal != "" {
		refuse(w, refusal)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, code)
}

// checkout reserves an item, or says why not.
func (s *shop) checkout(user int64, number int, now time.Time) (code, refusal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open(now)
	item := &s.item[number]
	switch {
	case item.sold:
		return "", "item_sold"
	case item.code != "" && now.Before(item.until):
		return "", "item_reserved"
	case s.held[user] >= saleLimit:
		return "", "user_limit"
	}
	if item.code != "" {
		s.held[item.user]--
	}
	item.user, item.until, item.code = user, now.Add(reservationTime), newCode()
	s.held[user]++
	s.codes[item.code] = reservation{user, number}
	return item.code, ""
}

func (s *shop) servePurchase(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("code")
	if len(code) != 36 {
		http.Error(w, "code must be a UUID", http.StatusBadRequest)
		return
	}
	now := time.Now()
	found, refusal := s.purchase(code, now)
	made := attempt{kind: "purchase", verdict: refusal, at: now}
	if found != nil {
		id := int32(found.item)
		made.user, made.item = &found.user, &id
	}
	if refusal == "" {
		made.verdict = "purchased"
	}
	s.attempt(made)
	if refusal != "" {
		refuse(w, refusal)
		return
	}
	reply(w, http.StatusOK, "application/json", map[string]any{"item_id": found.item, "user_id": found.user})
}

// purchase sells what a code has reserved, or says why not.
func (s *shop) purchase(code string, now time.Time) (found *reservation, refusal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open(now)
	known, ok := s.codes[code]
	if !ok {
		return nil, "code_unknown"
	}
	item := &s.item[known.item]
	switch {
	case item.code != code:
		return &known, "code_expired"
	case item.sold:
		return &known, "code_used"
	case !now.Before(item.until):
		return &known, "code_expired"
	}
	item.sold = true
	s.sold++
	return &known, ""
}

// open begins another sale if it is another hour.
func (s *shop) open(now time.Time) {
	if hour := now.Unix() / 3600; hour != s.hour {
		s.hour, s.sold = hour, 0
		s.item = [saleItems]item{}
		s.held, s.codes = make(map[int64]int), make(map[string]reservation)
	}
}

func newCode() string {
	var bytes [16]byte
	rand.Read(bytes[:])
	bytes[6], bytes[8] = bytes[6]&0x0f|0x40, bytes[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", bytes[:4], bytes[4:6], bytes[6:8], bytes[8:10], bytes[10:])
}

// problem is an answer as RFC 9457 has it.
type problem struct {
	Status  int    `json:"status"`
	Title   string `json:"title"`
	Detail  string `json:"detail"`
	Reason  string `json:"reason"`
	TraceID string `json:"trace_id"`
}

func refuse(w http.ResponseWriter, reason string) {
	reply(w, http.StatusConflict, "application/problem+json", problem{
		Status:  http.StatusConflict,
		Title:   http.StatusText(http.StatusConflict),
		Detail:  refusals[reason],
		Reason:  reason,
		TraceID: fmt.Sprintf("%016x%016x", randv2.Uint64(), randv2.Uint64()),
	})
}

// serveSale answers how many are sold, and how much was attempted since the start.
func (s *shop) serveSale(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	s.open(time.Now())
	sold := s.sold
	s.mu.Unlock()
	reply(w, http.StatusOK, "application/json", map[string]any{
		"items": saleItems, "sold": sold, "attempts": s.attempted.Load(),
	})
}

// attempt hands an attempt to whoever keeps them. A full queue holds the caller up.
func (s *shop) attempt(made attempt) {
	s.attempted.Add(1)
	s.attempts <- made
}

// keep copies attempts into Postgres, many at a time.
func (s *shop) keep(base *pgxpool.Pool) {
	columns := []string{"kind", "user_id", "item_id", "verdict", "at"}
	for {
		batch := s.batch()
		rows := pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
			made := batch[i]
			return []any{made.kind, made.user, made.item, made.verdict, made.at}, nil
		})
		if _, err := base.CopyFrom(context.Background(), pgx.Identifier{"peer", "attempts"}, columns, rows); err != nil {
			log.Fatalf("attempts: %v", err)
		}
	}
}

// batch waits for an attempt, and for others that come soon after it.
func (s *shop) batch() []attempt {
	batch := []attempt{<-s.attempts}
	soon := time.After(attemptsBatchDelay)
	for len(batch) < attemptsBatch {
		select {
		case made := <-s.attempts:
			batch = append(batch, made)
		case <-soon:
			return batch
		}
	}
	return batch
}
