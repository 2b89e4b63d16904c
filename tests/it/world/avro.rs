//! Record values made and read with apache-avro's own values and the registry's HTTP API: nothing of the code under
//! test takes part.

use std::collections::HashMap;

use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value as Avro,
    writer::datum::GenericDatumWriter,
};
use serde_json::{Value, json};

use super::{FIRST_ANSWER, PATIENCE, World, eventually};

/// Writes record values with one schema.
pub struct Writer {
    /// The id of the schema in the registry.
    pub id: u32,
    schema: Schema,
    /// What the datum begins with: which schema of a union follows.
    branch: Vec<u8>,
}

impl Writer {
    /// The datum alone.
    pub fn datum(&self, event: &Value) -> Vec<u8> {
        let value = Avro::try_from(event.clone())
            .unwrap()
            .resolve(&self.schema)
            .unwrap();
        let mut bytes = self.branch.clone();
        let writer = GenericDatumWriter::builder(&self.schema).build().unwrap();
        writer.write_value(&mut bytes, value).unwrap();
        bytes
    }

    /// A writer of the records of this name, where the schema is a union of records.
    pub fn of(&self, name: &str) -> Self {
        let Schema::Union(union) = &self.schema else {
            panic!("{:?} is no union", self.schema);
        };
        let mut branches = (0_u8..).zip(union.variants());
        let is_it = |(_, schema): &(u8, &Schema)| schema.name().unwrap().name() == name;
        let (index, schema) = branches.find(is_it).unwrap();
        Self {
            id: self.id,
            schema: schema.clone(),
            // A number is doubled, to make room for its sign.
            branch: vec![index * 2],
        }
    }

    /// A record value: zero byte, schema id, datum.
    pub fn value(&self, event: &Value) -> Vec<u8> {
        framed(self.id, &self.datum(event))
    }
}

/// A record value of these bytes.
pub fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], datum].concat()
}

impl World {
    /// A writer with the newest schema of a topic.
    pub async fn writer(&self, topic: &str) -> Writer {
        let subject = format!("/subjects/{}-value/versions/latest", self.topic(topic));
        let found = self.ask_registry(&subject).await.unwrap();
        Writer {
            id: serde_json::from_value(found["id"].clone()).unwrap(),
            schema: Schema::parse_str(found["schema"].as_str().unwrap()).unwrap(),
            branch: Vec::new(),
        }
    }

    /// Registers a schema under the subject of a topic, and gives a writer with it.
    pub async fn register(&self, topic: &str, schema: &Value) -> Writer {
        let url = format!(
            "{}/subjects/{}-value/versions",
            self.servers.registry_url,
            self.topic(topic)
        );
        let request = self
            .http
            .post(url)
            .json(&json!({ "schema": schema.to_string() }));
        let response = request.timeout(PATIENCE).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert!(
            status.is_success(),
            "registering a schema of {topic}: {status} {answer}"
        );
        Writer {
            id: serde_json::from_value(answer["id"].clone()).unwrap(),
            schema: Schema::parse_str(&schema.to_string()).unwrap(),
            branch: Vec::new(),
        }
    }

    /// What the registry answers; none to 404. On a busy machine it may not have the time at first.
    async fn ask_registry(&self, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.servers.registry_url);
        let response = eventually("the registry answers", async || {
            let asked = self.http.get(&url).timeout(FIRST_ANSWER).send().await;
            match asked {
                Err(error) if error.is_timeout() => None,
                settled => Some(settled.unwrap()),
            }
        })
        .await;
        if response.status() == 404 {
            return None;
        }
        Some(response.error_for_status().unwrap().json().await.unwrap())
    }
}

/// Reads record values of one topic by the schemas of the registry.
pub struct Reader<'w> {
    world: &'w World,
    subject: String,
    own: Schema,
    /// The writer's schema of each id, or why there is none.
    schemas: HashMap<u32, Result<Schema, &'static str>>,
}

impl<'w> Reader<'w> {
    /// A reader that resolves everything to the schema in this file.
    pub fn new(world: &'w World, topic: &str, avsc: &str) -> Self {
        Self {
            subject: format!("{}-value", world.topic(topic)),
            own: Schema::parse_str(avsc).unwrap(),
            schemas: HashMap::new(),
            world,
        }
    }

    /// The event, or the word for why it is none.
    pub async fn read(&mut self, value: Option<&[u8]>) -> Result<Value, &'static str> {
        let value = value.ok_or("no_value")?;
        let (frame, mut datum) = value.split_at_checked(5).ok_or("not_framed")?;
        let [0, id @ ..] = frame else {
            return Err("not_framed");
        };
        let id = u32::from_be_bytes(id.try_into().unwrap());
        if !self.schemas.contains_key(&id) {
            let learned = self.learn(id).await;
            self.schemas.insert(id, learned);
        }
        let writer = self.schemas[&id].as_ref().map_err(|why| *why)?;
        let reader = GenericDatumReader::builder(writer)
            .reader_schema(&self.own)
            .build()
            .unwrap();
        let event = reader.read_value(&mut datum).map_err(|_| "malformed")?;
        if !datum.is_empty() {
            return Err("malformed");
        }
        Value::try_from(event).map_err(|_| "malformed")
    }

    async fn learn(&self, id: u32) -> Result<Schema, &'static str> {
        let found = self
            .world
            .ask_registry(&format!("/schemas/ids/{id}"))
            .await
            .ok_or("unknown_schema")?;
        let versions = self
            .world
            .ask_registry(&format!("/schemas/ids/{id}/versions"))
            .await;
        let versions = versions.ok_or("foreign_schema")?;
        let is_ours = versions
            .as_array()
            .unwrap()
            .iter()
            .any(|version| version["subject"] == self.subject);
        if !is_ours {
            return Err("foreign_schema");
        }
        Ok(Schema::parse_str(found["schema"].as_str().unwrap()).unwrap())
    }
}
