import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.Stores;

/**
 * Counts the clicks of a topic by banner and minute with Kafka Streams, exactly once, in a store in memory whose changes
 * are on a changelog topic.
 *
 * <p>A click has no key, and its banner is on every partition. So each task counts its partition apart, as Millrace does:
 * to group by banner would write every click onto a second topic.
 */
public final class Clicks {
    private static final String STORE = "counts";
    private static final Duration PATIENCE = Duration.ofMinutes(2);
    private static final long LOOK_MS = 10;

    /** Zero byte and schema id. */
    private static final int FRAME_BYTES = 5;

    private static final long MINUTE_MS = 60_000;

    private final String brokers;
    private final String topic;
    private final String stateFolder;
    private final long count;

    private Clicks(String brokers, String topic, String stateFolder, long count) {
        this.brokers = brokers;
        this.topic = topic;
        this.stateFolder = stateFolder;
        this.count = count;
    }

    /** Takes brokers, topic, a name for groups and topics, a folder, and how many clicks there are. */
    public static void main(String[] arguments) throws Exception {
        Clicks clicks = new Clicks(arguments[0], arguments[1], arguments[3], Long.parseLong(arguments[4]));
        clicks.count(arguments[2] + "-warm");
        System.out.println(clicks.count(arguments[2]));
    }

    /** Counts all clicks; gives how long that took, and what came of it. */
    private String count(String application) throws Exception {
        AtomicLong began = new AtomicLong();
        Topology topology = new Topology();
        topology.addSource("clicks", new ByteArrayDeserializer(), new ByteArrayDeserializer(), topic);
        topology.addProcessor("count", () -> new Count(began), "clicks");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(STORE), Serdes.Bytes(), Serdes.Long())
                        .withCachingEnabled()
                        .withLoggingEnabled(Map.of()),
                "count");
        KafkaStreams streams = new KafkaStreams(topology, settings(application));
        streams.setUncaughtExceptionHandler(failure -> {
            failure.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            streams.start();
            waitFor(admin, application, streams);
            long tookMs = System.currentTimeMillis() - began.get();
            String counts = counts(streams);
            streams.close();
            streams.cleanUp();
            admin.deleteTopics(List.of(application + "-" + STORE + "-changelog")).all().get();
            return "{\"took_ms\":" + tookMs + ",\"counts\":" + counts + "}";
        }
    }

    private Properties settings(String application) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, stateFolder);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, Runtime.getRuntime().availableProcessors());
        // A click has to be visible within a second; the default, 100 ms, writes more of the changelog.
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 500);
        // So much that nothing but a commit writes the changelog.
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 256L << 20);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // Larger than the defaults, so that a partition is not paused after each poll.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5_000);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        return settings;
    }

    /** Waits until the offsets that are committed pass the last click. */
    private void waitFor(Admin admin, String application, KafkaStreams streams) throws Exception {
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        long reached = 0;
        while (reached < count) {
            TimeUnit.MILLISECONDS.sleep(LOOK_MS);
            if (System.nanoTime() > deadline || streams.state().hasStartedOrFinishedShuttingDown()) {
                throw new TimeoutException(reached + " of " + count + " clicks are counted");
            }
            reached = 0;
            for (OffsetAndMetadata next :
                    admin.listConsumerGroupOffsets(application).partitionsToOffsetAndMetadata().get().values()) {
                reached += next.offset();
            }
        }
    }

    /** How many banners there are, and the least and the most clicks that one has. */
    private static String counts(KafkaStreams streams) {
        Map<Long, Long> clicks = new HashMap<>();
        var store = streams.store(
                StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.<Bytes, Long>keyValueStore()));
        try (var all = store.all()) {
            all.forEachRemaining(
                    entry -> clicks.merge(ByteBuffer.wrap(entry.key.get()).getLong(), entry.value, Long::sum));
        }
        long least = clicks.values().stream().mapToLong(Long::longValue).min().orElse(0);
        long most = clicks.values().stream().mapToLong(Long::longValue).max().orElse(0);
        return "{\"banners\":" + clicks.size() + ",\"least\":" + least + ",\"most\":" + most + "}";
    }

    /** Counts the clicks of one partition. */
    private static final class Count extends ContextualProcessor<byte[], byte[], Void, Void> {
        private final AtomicLong began;
        private KeyValueStore<Bytes, Long> counts;

        Count(AtomicLong began) {
            this.began = began;
        }

        @Override
        public void init(ProcessorContext<Void, Void> context) {
            super.init(context);
            began.compareAndSet(0, System.currentTimeMillis());
            counts = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<byte[], byte[]> click) {
            ByteBuffer value = ByteBuffer.wrap(click.value());
            value.position(FRAME_BYTES);
            long banner = readLong(value);
            long minute = Math.floorDiv(readLong(value), MINUTE_MS);
            Bytes key = Bytes.wrap(ByteBuffer.allocate(16).putLong(banner).putLong(minute).array());
            Long before = counts.get(key);
            counts.put(key, before == null ? 1 : before + 1);
        }

        /** A number as Avro has it: seven bits a byte, the least first, and its sign in the last bit. */
        private static long readLong(ByteBuffer from) {
            long zigzag = 0;
            byte read;
            int shift = 0;
            do {
                read = from.get();
                zigzag |= (read & 0x7fL) << shift;
                shift += 7;
            } while (read < 0);
            return zigzag >>> 1 ^ -(zigzag & 1);
        }
    }
}
