//! The first door from outside: REST by reqwest, with every answer whole.

use std::sync::OnceLock;

use reqwest::{
    Client, Method, RequestBuilder,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;

use super::{Sse, soon};

/// A client of one server.
#[derive(Clone)]
pub struct Rest {
    http: Client,
    pub base: String,
    /// Its API token, if it has one.
    token: Option<String>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Rest {
    pub fn new(base: String) -> Self {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        PROVIDER.get_or_init(|| {
            rustls::crypto::ring::default_provider().install_default().expect("no other provider is installed");
        });
        // No certificates: nothing here leaves the machine.
        let http = Client::builder().tls_certs_only([]).no_proxy().build().expect("a client");
        Self { http, base, token: None }
    }

    /// The same with a token.
    pub fn bearer(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// A request that is still to be sent.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request("GET", path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request("DELETE", path)).await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(method, path).json(body)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body).await
    }

    /// The JSON of a GET that succeeds.
    pub async fn read(&self, path: &str) -> Value {
        self.get(path).await.ok()
    }

    /// A stream of GET.
    pub async fn stream(&self, path: &str) -> Sse {
        Sse::open(self.request("GET", path)).await
    }

    /// A stream of GET that goes on after a cursor.
    pub async fn resume(&self, path: &str, last_event_id: &str) -> Sse {
        Sse::open(self.request("GET", path).header("last-event-id", last_event_id)).await
    }

    /// Sends a message and answers the stream of its turn.
    pub async fn say(&self, body: &Value) -> Sse {
        Sse::open(self.request("POST", "/messages").json(body)).await
    }

    /// Sends words and waits for the end of the turn: `{turn, message}`.
    pub async fn ask(&self, text: &str) -> Value {
        let request = self.request("POST", "/messages").header("accept", "application/json");
        Answer::of(request.json(&serde_json::json!({ "text": text }))).await.ok()
    }

    /// Sends words and answers the turn as soon as it is accepted.
    pub async fn begin(&self, text: &str) -> Value {
        let request = self.request("POST", "/messages").header("prefer", "respond-async");
        let answer = Answer::of(request.json(&serde_json::json!({ "text": text }))).await;
        answer.json_with(202)["turn"].clone()
    }

    /// The turn when it has ended.
    pub async fn ended_turn(&self, id: &Value) -> Value {
        let id = id.as_str().expect("an id");
        let turn = self.read(&format!("/turns/{id}?wait=60")).await;
        assert_eq!(turn["status"], "completed", "{turn}");
        turn
    }

    /// All messages.
    pub async fn messages(&self) -> Vec<Value> {
        let list = self.read("/messages?limit=200").await;
        assert_eq!(list["pagination"]["has_more"], false, "all messages are on one page");
        list["messages"].as_array().expect("a list").clone()
    }

    /// Every event that the log holds now.
    pub async fn log(&self) -> Vec<super::Event> {
        let mut events = Vec::new();
        let mut after = "0".to_owned();
        loop {
            let request = self.request("GET", &format!("/events?limit=1000&after={after}"));
            let page = Answer::of(request.header("accept", "application/json")).await.ok();
            assert_eq!(page.get("resync"), None);
            let found = page["events"].as_array().expect("a list").iter();
            events.extend(found.map(|event| super::Event::of_page(event.clone())));
            after = page["next"].as_str().expect("a cursor").to_owned();
            if page["has_more"] == false {
                return events;
            }
        }
    }
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let answering = async {
            let response = request.send().await.expect("an answer");
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Self { status, headers, body: response.bytes().await.expect("a whole body").to_vec() }
        };
        soon("an answer", answering).await
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        self.headers.get(name).map(HeaderValue::to_str).transpose().expect("text")
    }

    /// The JSON of an answer with status 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        self.json_with(200)
    }

    #[track_caller]
    pub fn json_with(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// A problem document that keeps every promise of the contract; answers it.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let problem: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("urn:opencode:problem:{code}"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        assert!(problem["retryable"].is_boolean(), "{problem}");
        problem
    }
}
