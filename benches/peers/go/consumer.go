package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

const (
	// A connection for each partition of the topic.
	consumerConnections = 8
	// What comes before the datum: a zero byte and the id of its schema.
	frameBytes = 5

	insertOrder = `INSERT INTO orders.orders (order_uid, track_number, entry, locale, internal_signature, customer_id,
		delivery_service, shardkey, sm_id, date_created, oof_shard)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`
	insertDelivery = `INSERT INTO orders.deliveries (order_uid, name, phone, zip, city, address, region, email)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`
	insertPayment = `INSERT INTO orders.payments (order_uid, transaction, request_id, currency, provider, amount,
		payment_dt, bank, delivery_cost, goods_total, custom_fee)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`
	insertItem = `INSERT INTO orders.items (order_uid, item_index, chrt_id, track_number, price, rid, name, sale, size,
		total_price, nm_id, brand, status)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`
)

// order is what a record of the topic says.
type order struct {
	OrderUID          string   `avro:"order_uid"`
	TrackNumber       string   `avro:"track_number"`
	Entry             string   `avro:"entry"`
	Delivery          delivery `avro:"delivery"`
	Payment           payment  `avro:"payment"`
	Items             []line   `avro:"items"`
	Locale            string   `avro:"locale"`
	InternalSignature string   `avro:"internal_signature"`
	CustomerID        string   `avro:"customer_id"`
	DeliveryService   string   `avro:"delivery_service"`
	ShardKey          string   `avro:"shardkey"`
	SmID              int64    `avro:"sm_id"`
	DateCreated       string   `avro:"date_created"`
	OofShard          string   `avro:"oof_shard"`
}

type delivery struct {
	Name    string `avro:"name"`
	Phone   string `avro:"phone"`
	Zip     string `avro:"zip"`
	City    string `avro:"city"`
	Address string `avro:"address"`
	Region  string `avro:"region"`
	Email   string `avro:"email"`
}

type payment struct {
	Transaction  string `avro:"transaction"`
	RequestID    string `avro:"request_id"`
	Currency     string `avro:"currency"`
	Provider     string `avro:"provider"`
	Amount       int64  `avro:"amount"`
	PaymentDT    int64  `avro:"payment_dt"`
	Bank         string `avro:"bank"`
	DeliveryCost int64  `avro:"delivery_cost"`
	GoodsTotal   int64  `avro:"goods_total"`
	CustomFee    int64  `avro:"custom_fee"`
}

// line is one item of an order.
type line struct {
	ChrtID      int64  `avro:"chrt_id"`
	TrackNumber string `avro:"track_number"`
	Price       int64  `avro:"price"`
	RID         string `avro:"rid"`
	Name        string `avro:"name"`
	Sale        int64  `avro:"sale"`
	Size        string `avro:"size"`
	TotalPrice  int64  `avro:"total_price"`
	NmID        int64  `avro:"nm_id"`
	Brand       string `avro:"brand"`
	Status      int64  `avro:"status"`
}

// consumer writes orders into Postgres, each in a transaction of its own. Offsets are committed after that, so an order
// may come again, and then changes nothing.
type consumer struct {
	base   *pgxpool.Pool
	schema avro.Schema
}

// runConsumer consumes so many orders, and prints how long that took from the assignment of the partitions.
func runConsumer(arguments []string) error {
	flags := flag.NewFlagSet("consumer", flag.ExitOnError)
	brokers := flags.String("brokers", "", "host:port of Kafka, separated by commas")
	topic := flags.String("topic", "", "topic of the orders")
	group := flags.String("group", "", "consumer group")
	database := flags.String("database", "", "URL of Postgres")
	schemaFile := flags.String("schema", "", "file of the Avro schema")
	count := flags.Int("count", 0, "how many orders")
	flags.Parse(arguments)

	text, err := os.ReadFile(*schemaFile)
	if err != nil {
		return err
	}
	schema, err := avro.Parse(string(text))
	if err != nil {
		return err
	}
	base, err := connect(*database, consumerConnections)
	if err != nil {
		return err
	}
	defer base.Close()
	var began time.Time
	var assigned sync.Once
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...),
		kgo.ConsumerGroup(*group),
		kgo.ConsumeTopics(*topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			assigned.Do(func() { began = time.Now() })
		}),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	c := &consumer{base, schema}
	for done := 0; done < *count; {
		placed, err := c.poll(context.Background(), client)
		if err != nil {
			return err
		}
		done += placed
	}
	fmt.Printf("{\"took_ms\":%d}\n", time.Since(began).Milliseconds())
	return nil
}

// poll writes what was fetched, the partitions side by side, and commits their offsets.
func (c *consumer) poll(ctx context.Context, client *kgo.Client) (int, error) {
	fetches := client.PollFetches(ctx)
	defer client.AllowRebalance()
	for _, failed := range fetches.Errors() {
		return 0, failed.Err
	}
	partitions, ctx := errgroup.WithContext(ctx)
	fetches.EachPartition(func(fetched kgo.FetchTopicPartition) {
		partitions.Go(func() error {
			for _, record := range fetched.Records {
				if err := c.place(ctx, record); err != nil {
					return fmt.Errorf("partition %d, offset %d: %w", record.Partition, record.Offset, err)
				}
			}
			return nil
		})
	})
	if err := partitions.Wait(); err != nil {
		return 0, err
	}
	return fetches.NumRecords(), client.CommitUncommittedOffsets(context.Background())
}

// place writes an order with all that belongs to it.
func (c *consumer) place(ctx context.Context, record *kgo.Record) error {
	if len(record.Value) < frameBytes || record.Value[0] != 0 {
		return errors.New("not framed")
	}
	var placed order
	if err := avro.Unmarshal(c.schema, record.Value[frameBytes:], &placed); err != nil {
		return err
	}
	// A batch is one round trip, and one transaction.
	batch := &pgx.Batch{}
	uid, d, p := placed.OrderUID, &placed.Delivery, &placed.Payment
	batch.Queue(insertOrder, uid, placed.TrackNumber, placed.Entry, placed.Locale, placed.InternalSignature,
		placed.CustomerID, placed.DeliveryService, placed.ShardKey, placed.SmID, placed.DateCreated, placed.OofShard)
	batch.Queue(insertDelivery, uid, d.Name, d.Phone, d.Zip, d.City, d.Address, d.Region, d.Email)
	batch.Queue(insertPayment, uid, p.Transaction, p.RequestID, p.Currency, p.Provider, p.Amount, p.PaymentDT, p.Bank,
		p.DeliveryCost, p.GoodsTotal, p.CustomFee)
	for index, i := range placed.Items {
		batch.Queue(insertItem, uid, index, i.ChrtID, i.TrackNumber, i.Price, i.RID, i.Name, i.Sale, i.Size,
			i.TotalPrice, i.NmID, i.Brand, i.Status)
	}
	return c.base.SendBatch(ctx, batch).Close()
}
