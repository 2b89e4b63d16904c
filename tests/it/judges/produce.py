"""Writes the events on standard input, an object with key and value a line, with the newest schema of the registry.
Prints the position of each.

usage: produce.py TOPIC, with the addresses in MILLRACE_BROKERS and MILLRACE_REGISTRY_URL
"""

import json
import os
import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

ANSWER_SECONDS = 30

topic = sys.argv[1]
encode = AvroSerializer(
    SchemaRegistryClient({"url": os.environ["MILLRACE_REGISTRY_URL"]}),
    conf={"auto.register.schemas": False, "use.latest.version": True},
)
# librdkafka's own default would put keys elsewhere than Kafka's Java client does.
producer = Producer(
    {"bootstrap.servers": os.environ["MILLRACE_BROKERS"], "partitioner": "murmur2_random", "acks": "all"}
)


def delivered(error, record):
    if error:
        sys.exit(f"not written: {error}")
    print(f"{record.topic()}/{record.partition()}@{record.offset()}")


for line in sys.stdin:
    event = json.loads(line)
    value = encode(event["value"], SerializationContext(topic, MessageField.VALUE))
    producer.produce(topic, value, event["key"], on_delivery=delivered)
if producer.flush(ANSWER_SECONDS) > 0:
    sys.exit(f"no answer within {ANSWER_SECONDS} s")
