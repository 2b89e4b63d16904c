-- Run once by docker/compose.yaml: the schema registry has a database of its own.
CREATE DATABASE registry;
