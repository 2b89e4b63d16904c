//! Requests to a process, and what came back.

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PATIENCE, eventually, process::Process};

/// Where a write stands on the log.
pub const POSITION: &str = "millrace-position";
/// What a read has to reflect.
pub const MIN_POSITION: &str = "millrace-min-position";

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header that has to be there.
    pub fn header(&self, name: &str) -> &str {
        self.find_header(name)
            .unwrap_or_else(|| panic!("no header {name}: {self:?}"))
    }

    /// A header.
    pub fn find_header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Where the write stands.
    pub fn position(&self) -> &str {
        self.header(POSITION)
    }

    /// Asserts that it is an RFC 9457 problem with this status and reason, and gives it.
    pub fn problem(&self, status: u16, reason: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["reason"], reason, "{self:?}");
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{self:?}"
        );
        problem
    }
}

impl Process {
    /// Where it listens, `host:port`.
    pub fn address(&self) -> &str {
        let url = self
            .url
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not listen", self.what));
        url.strip_prefix("http://").unwrap()
    }

    /// A request to this path, to be completed and given to [`Process::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let address = self.address();
        self.http
            .request(method, format!("http://{address}{path}"))
            .timeout(PATIENCE)
    }

    /// Sends a request that has to be answered.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// Sends a request that may fail on its way.
    pub async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await?,
        })
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `GET`, reflecting a position; comes again as it is told to: on a machine that is busy the fold may take longer
    /// than an answer may wait.
    pub async fn get_at(&self, path: &str, position: &str) -> Answer {
        eventually(&format!("{path} reflects {position}"), async || {
            let answer = self.get_at_once(path, position).await;
            (!answer.body.contains(r#""reason":"not_caught_up""#)).then_some(answer)
        })
        .await
    }

    /// `GET`, reflecting a position, if that is reached while the answer may wait.
    pub async fn get_at_once(&self, path: &str, position: &str) -> Answer {
        self.send(
            self.request(Method::GET, path)
                .header(MIN_POSITION, position),
        )
        .await
    }

    /// `POST` of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }
}

/// A caller who does as it likes with its connection.
pub struct Caller(pub TcpStream);

impl Caller {
    /// Connects, and says nothing.
    pub async fn connect(process: &Process) -> Self {
        Self(TcpStream::connect(process.address()).await.unwrap())
    }

    /// Sends as much as is taken; gives false once the connection is cut off.
    pub async fn send(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).await.is_ok()
    }

    /// The head of the next answer: all of it, if it has no body.
    pub async fn answer(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8()).await;
            answer.push(byte.expect("an answer in time").expect("an answer"));
        }
        String::from_utf8(answer).unwrap()
    }

    /// Asserts that the next answer has this status, and is no longer than its head.
    pub async fn must_be(&mut self, status: u16) {
        let answer = self.answer().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}
