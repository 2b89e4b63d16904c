//! The client of a Confluent-compatible schema registry: the calls that Millrace needs.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use reqwest::{Method, StatusCode, header::DATE};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::topics::Compatibility;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The registry's own code for "schema not found" and "subject not found".
const SCHEMA_NOT_FOUND: i64 = 40403;
const SUBJECT_NOT_FOUND: i64 = 40401;

/// A registry at an address.
#[derive(Debug, Clone)]
pub struct Registry {
    http: reqwest::Client,
    url: String,
}

/// The registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer, or none of a schema registry.
    #[error(
        "the schema registry at {url} does not answer: check MILLRACE_REGISTRY_URL and that it runs"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What went wrong on the way.
        #[source]
        source: reqwest::Error,
    },
    /// The new schema breaks readers or writers of an earlier version.
    #[error("the registry refuses the schema of {subject}: {why}")]
    Incompatible {
        /// Under which subject.
        subject: String,
        /// The registry's reason.
        why: String,
    },
    /// Any other answer.
    #[error("the schema registry at {url} answered {status} to {what}: {why}")]
    Refused {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What was asked.
        what: String,
        /// The registry's words.
        why: String,
    },
}

impl RegistryError {
    /// Whether it is there and takes long: it may just have started.
    pub fn is_slow(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_timeout() && !source.is_connect())
    }
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct SchemaText {
    schema: String,
}

#[derive(Deserialize)]
#[serde(default)]
struct Refusal {
    error_code: i64,
    message: String,
}

impl Default for Refusal {
    fn default() -> Self {
        Self {
            error_code: 0,
            message: "no reason given".to_owned(),
        }
    }
}

impl Registry {
    /// A client for the registry at `url`, such as `http://127.0.0.1:18081/apis/ccompat/v7`; connects at the first
    /// call.
    ///
    /// # Errors
    /// If TLS cannot be set up on this machine.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|source| RegistryError::Unreachable {
                url: url.clone(),
                source,
            })?;
        Ok(Self { http, url })
    }

    /// Registers the schema with this text under `subject`, or finds it there, and returns its id.
    ///
    /// # Errors
    /// [`RegistryError::Incompatible`] if the subject's rule forbids it.
    pub async fn register(&self, subject: &str, avsc: &str) -> Result<u32, RegistryError> {
        let path = format!("/subjects/{subject}/versions");
        let body = json!({ "schema": avsc });
        match self.call(Method::POST, &path, Some(&body)).await? {
            Ok(Registered { id }) => Ok(id),
            Err((StatusCode::CONFLICT, refusal)) => Err(RegistryError::Incompatible {
                subject: subject.to_owned(),
                why: refusal.message,
            }),
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// The schema with this id as JSON text; `None` if there is none.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError> {
        if i32::try_from(id).is_err() {
            // Ids are Java's `int`: asked for a larger one, registries do not say that they have no such schema.
            return Ok(None);
        }
        let path = format!("/schemas/ids/{id}");
        match self.call(Method::GET, &path, None).await? {
            Ok(SchemaText { schema }) => Ok(Some(schema)),
            Err((StatusCode::NOT_FOUND, refusal)) if refusal.error_code == SCHEMA_NOT_FOUND => {
                Ok(None)
            }
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// Whether the schema with this id is a version of `subject`.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub async fn is_registered(&self, subject: &str, id: u32) -> Result<bool, RegistryError> {
        let path = format!("/schemas/ids/{id}/versions");
        #[derive(Deserialize)]
        struct Version {
            subject: String,
        }
        match self.call::<Vec<Version>>(Method::GET, &path, None).await? {
            Ok(versions) => Ok(versions.iter().any(|version| version.subject == subject)),
            Err((StatusCode::NOT_FOUND, refusal)) if refusal.error_code == SCHEMA_NOT_FOUND => {
                Ok(false)
            }
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// The versions of `subject`; none if nothing was registered under it.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        let path = format!("/subjects/{subject}/versions");
        match self.call(Method::GET, &path, None).await? {
            Ok(versions) => Ok(versions),
            Err((StatusCode::NOT_FOUND, refusal)) if refusal.error_code == SUBJECT_NOT_FOUND => {
                Ok(Vec::new())
            }
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// A version of `subject`: the id of its schema and its text.
    ///
    /// # Errors
    /// If the registry does not answer or has no such version.
    pub async fn version(
        &self,
        subject: &str,
        version: u32,
    ) -> Result<(u32, String), RegistryError> {
        let path = format!("/subjects/{subject}/versions/{version}");
        #[derive(Deserialize)]
        struct Found {
            id: u32,
            schema: String,
        }
        match self.call(Method::GET, &path, None).await? {
            Ok(Found { id, schema }) => Ok((id, schema)),
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// What the registry demands of new versions of `subject`, in its own word; none if only its general rule
    /// applies.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub async fn demanded(&self, subject: &str) -> Result<Option<String>, RegistryError> {
        let path = format!("/config/{subject}");
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Demanded {
            compatibility_level: String,
        }
        match self.call(Method::GET, &path, None).await? {
            Ok(Demanded {
                compatibility_level,
            }) => Ok(Some(compatibility_level)),
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// What time it is where the registry runs, in whole seconds; none if its answer does not say.
    ///
    /// # Errors
    /// If the registry does not answer, or not as a registry.
    pub async fn time(&self) -> Result<Option<Timestamp>, RegistryError> {
        let path = "/config";
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        let answer = answer.map_err(|source| self.unreachable(source))?;
        if !answer.status().is_success() {
            return Err(self.refused(answer.status(), path, Refusal::default()));
        }
        let date = answer
            .headers()
            .get(DATE)
            .and_then(|date| date.to_str().ok());
        let parser = DateTimeParser::new();
        Ok(date.and_then(|date| parser.parse_timestamp(date).ok()))
    }

    /// Sets what the registry demands of new versions of `subject`.
    ///
    /// # Errors
    /// If the registry does not answer.
    pub async fn demand(
        &self,
        subject: &str,
        compatibility: Compatibility,
    ) -> Result<(), RegistryError> {
        let path = format!("/config/{subject}");
        let body = json!({ "compatibility": compatibility.as_str() });
        match self.call::<Value>(Method::PUT, &path, Some(&body)).await? {
            Ok(_) => Ok(()),
            Err((status, refusal)) => Err(self.refused(status, &path, refusal)),
        }
    }

    /// One call: the answer, or the status and words of a refusal.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<T, (StatusCode, Refusal)>, RegistryError> {
        let unreachable = |source| self.unreachable(source);
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return response.json().await.map(Ok).map_err(unreachable);
        }
        let refusal = response.json().await.unwrap_or_default();
        Ok(Err((status, refusal)))
    }

    fn unreachable(&self, source: reqwest::Error) -> RegistryError {
        RegistryError::Unreachable {
            url: self.url.clone(),
            source,
        }
    }

    fn refused(&self, status: StatusCode, what: &str, refusal: Refusal) -> RegistryError {
        RegistryError::Refused {
            url: self.url.clone(),
            status: status.as_u16(),
            what: what.to_owned(),
            why: refusal.message,
        }
    }
}
