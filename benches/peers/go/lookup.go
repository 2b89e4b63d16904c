package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

const (
	cacheTTL       = time.Hour
	requestTimeout = time.Second
	// A connection for each of the callers of the bench, so that none waits for one.
	redisConnections = 64
)

// lookup finds users and orders: in Redis, or else in Postgres, and then puts them into Redis. A Redis that fails is
// passed by.
type lookup struct {
	cache *redis.Client
	base  *pgxpool.Pool
}

func runLookup(arguments []string) error {
	flags := flag.NewFlagSet("lookup", flag.ExitOnError)
	address := flags.String("redis", "", "host:port of Redis")
	database := flags.String("database", "", "URL of Postgres")
	connections := flags.Int("connections", 10, "connections to Postgres")
	flags.Parse(arguments)

	base, err := connect(*database, *connections)
	if err != nil {
		return err
	}
	cache := redis.NewClient(&redis.Options{Addr: *address, PoolSize: redisConnections})
	l := &lookup{cache: cache, base: base}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/users", l.serveUser)
	mux.HandleFunc("GET /order", l.serveOrder)
	return serve(mux)
}

// connect opens a pool of so many connections. pgx prepares each statement once a connection.
func connect(database string, connections int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns = int32(connections), int32(connections)
	return pgxpool.NewWithConfig(context.Background(), config)
}

// profile is what is known of a user; in Redis it is JSON.
type profile struct {
	UserID       string `json:"user_id"`
	Deeplink     string `json:"deeplink"`
	PromoMessage string `json:"promo_message"`
}

type userAnswer struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	*profile
	CacheHit bool     `json:"cache_hit"`
	Metadata metadata `json:"metadata"`
}

type metadata struct {
	Timestamp string `json:"timestamp"`
	Version   string `json:"version"`
}

func (l *lookup) serveUser(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("user_id")
	if !isUserID(id) {
		replyUser(w, userAnswer{Code: http.StatusBadRequest, Message: "invalid user_id"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	if found, ok := l.cached(ctx, "user:"+id); ok {
		user := new(profile)
		if err := json.Unmarshal(found, user); err == nil {
			replyUser(w, userAnswer{Code: http.StatusOK, Message: "ok:redis", profile: user, CacheHit: true})
			return
		}
	}
	user := &profile{UserID: id}
	err := l.base.QueryRow(ctx, "SELECT deeplink, promo_message FROM peer.users WHERE user_id = $1", id).
		Scan(&user.Deeplink, &user.PromoMessage)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		replyUser(w, userAnswer{Code: http.StatusNotFound, Message: "not found"})
	case err != nil:
		logUnlessGone(ctx, "user %s: %v", id, err)
		replyUser(w, userAnswer{Code: http.StatusInternalServerError, Message: "internal error"})
	default:
		if text, err := json.Marshal(user); err == nil {
			l.fill(ctx, "user:"+id, text)
		}
		replyUser(w, userAnswer{Code: http.StatusOK, Message: "ok:postgres", profile: user})
	}
}

// isUserID tells whether a text is 1 to 20 of A-Z, a-z, 0-9, _ and -.
func isUserID(text string) bool {
	for _, c := range []byte(text) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return len(text) >= 1 && len(text) <= 20
}

func replyUser(w http.ResponseWriter, answer userAnswer) {
	answer.Metadata = metadata{time.Now().UTC().Format(time.RFC3339), "v1"}
	reply(w, answer.Code, "application/json", answer)
}

// serveOrder answers with the JSON of an order as it is stored.
func (l *lookup) serveOrder(w http.ResponseWriter, r *http.Request) {
	uid := r.URL.Query().Get("uid")
	if uid == "" {
		http.Error(w, "uid is missing", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	body, ok := l.cached(ctx, "order:"+uid)
	if !ok {
		err := l.base.QueryRow(ctx, "SELECT body FROM peer.orders WHERE order_uid = $1", uid).Scan(&body)
		if errors.Is(err, pgx.ErrNoRows) {
			http.Error(w, "there is no such order", http.StatusNotFound)
			return
		}
		if err != nil {
			logUnlessGone(ctx, "order %s: %v", uid, err)
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		l.fill(ctx, "order:"+uid, body)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body)
}

// cached gives what Redis has under a key.
func (l *lookup) cached(ctx context.Context, key string) ([]byte, bool) {
	found, err := l.cache.Get(ctx, key).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		logUnlessGone(ctx, "redis: %v", err)
	}
	return found, err == nil
}

func (l *lookup) fill(ctx context.Context, key string, value []byte) {
	if err := l.cache.Set(ctx, key, value, cacheTTL).Err(); err != nil {
		logUnlessGone(ctx, "redis: %v", err)
	}
}

// logUnlessGone logs what failed, unless it did because the caller has gone.
func logUnlessGone(ctx context.Context, format string, what ...any) {
	if !errors.Is(ctx.Err(), context.Canceled) {
		log.Printf(format, what...)
	}
}
