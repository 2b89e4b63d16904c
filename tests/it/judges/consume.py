"""Prints the records of a topic, decoded with the schemas of the registry: an object with key and value a line.

usage: consume.py TOPIC COUNT, with the addresses in MILLRACE_BROKERS and MILLRACE_REGISTRY_URL
"""

import json
import os
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

ANSWER_SECONDS = 30

topic, count = sys.argv[1], int(sys.argv[2])
decode = AvroDeserializer(SchemaRegistryClient({"url": os.environ["MILLRACE_REGISTRY_URL"]}))
consumer = Consumer(
    {
        "bootstrap.servers": os.environ["MILLRACE_BROKERS"],
        "group.id": topic + "judge",
        "enable.auto.commit": False,
    }
)
partitions = consumer.list_topics(topic, ANSWER_SECONDS).topics[topic].partitions
consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
for _ in range(count):
    record = consumer.poll(ANSWER_SECONDS)
    if record is None or record.error():
        sys.exit(f"no record: {record and record.error()}")
    key = record.key() and record.key().decode()
    value = decode(record.value(), SerializationContext(topic, MessageField.VALUE))
    # A time is the only thing that is not JSON already.
    print(json.dumps({"key": key, "value": value}, default=lambda time: int(time.timestamp() * 1000)))
consumer.close()
