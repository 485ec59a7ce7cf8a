//! The scripted model: answers in order, in either dialect, over plain HTTP, and keeps a journal of what it was told.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use super::{
    soon,
    wire::{self, Writer},
};

/// The key that servers are given; it must not appear anywhere.
pub const KEY: &str = "sk-test-0123456789-never-to-be-seen";

/// How the model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Anthropic,
    OpenAi,
}

/// One thing that the model does in an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Words, one chunk for each.
    Text(String),
    /// Words with a pause before each, for tests that read in between.
    Slowly(String, Duration),
    /// Reasoning, with the signature that Anthropic wants to see again.
    Reasoning { text: String, signature: &'static str },
    /// A tool call; the input is sent as it is, be it JSON or not.
    Call { name: String, input: String },
    /// What the call used, in place of the usual figures.
    Usage(Tokens),
    /// Why the answer ends, in place of the natural reason.
    Finish(Ending),
    /// Goes on when the test opens the gate.
    Wait(Gate),
    /// Nothing more, for ever; the client has to go.
    Stall,
    /// Nothing more but signs of life that say nothing, so often; the client has to go.
    Pings(Duration),
    /// The connection breaks.
    Cut,
    /// A chunk that is no JSON.
    Garbage,
    /// An answer with this status, these headers and this JSON in place of a stream.
    Http { status: u16, headers: Vec<(&'static str, String)>, body: Value },
}

/// Why an answer ends, in the dialect's word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    EndTurn,
    ToolUse,
    MaxTokens,
    Refused,
}

/// What a call used. `input` is what was in no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    pub output: u64,
    pub reasoning: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { input: 100, cache_read: 0, cache_write: 0, output: 20, reasoning: 0 }
    }
}

/// Holds an answer up until the test opens it; each opening lets one pass.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.add_permits(1);
    }

    async fn pass(&self) {
        self.0.acquire().await.expect("gates are never closed").forget();
    }
}

pub fn text(words: &str) -> Step {
    Step::Text(words.to_owned())
}

pub fn call(name: &str, input: &Value) -> Step {
    Step::Call { name: name.to_owned(), input: input.to_string() }
}

pub fn bash(command: &str) -> Step {
    call("bash", &serde_json::json!({ "command": command }))
}

/// An error as this dialect's provider would answer it.
pub fn refusal(status: u16, message: &str) -> Step {
    let body = serde_json::json!({"type": "error", "error": {"type": "some_error", "message": message}});
    Step::Http { status, headers: Vec::new(), body }
}

/// What the model was asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub dialect: Dialect,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

/// A scripted model that listens.
pub struct Model {
    pub dialect: Dialect,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    dialect: Dialect,
    answers: Mutex<VecDeque<Vec<Step>>>,
    journal: Mutex<Vec<Ask>>,
    /// How many requests have come, and how many clients left in the middle of an answer.
    counts: watch::Sender<(usize, usize)>,
}

impl Model {
    /// Listens, with answers to hand out in order.
    pub async fn start(dialect: Dialect, answers: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            dialect,
            answers: Mutex::new(answers.into_iter().collect()),
            journal: Mutex::default(),
            counts: watch::channel((0, 0)).0,
        });
        tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { dialect, address, shared }
    }

    /// What makes a server use this model.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let base = format!("http://{}", self.address);
        match self.dialect {
            Dialect::Anthropic => vec![("ANTHROPIC_API_KEY", KEY.to_owned()), ("ANTHROPIC_BASE_URL", base)],
            Dialect::OpenAi => vec![("OPENAI_API_KEY", KEY.to_owned()), ("OPENAI_BASE_URL", format!("{base}/v1"))],
        }
        .into_iter()
        .chain([("OPENCODE_MODEL", self.id().to_owned())])
        .collect()
    }

    /// The model's name: one whose price is in the built-in table.
    pub fn id(&self) -> &'static str {
        match self.dialect {
            Dialect::Anthropic => "anthropic/claude-opus-5-5",
            Dialect::OpenAi => "openai/gpt-5.2",
        }
    }

    /// One more answer at the end of the script.
    pub fn then(&self, answer: Vec<Step>) {
        self.shared.answers.lock().expect("the script").push_back(answer);
    }

    /// Takes back the answers that nobody has asked for.
    pub fn forget_the_rest(&self) {
        self.shared.answers.lock().expect("the script").clear();
    }

    /// What is left of the script is dropped.
    pub fn forget(&self) {
        self.shared.answers.lock().expect("the script").clear();
    }

    /// Everything that it was asked so far.
    pub fn journal(&self) -> Vec<Ask> {
        self.shared.journal.lock().expect("the journal").clone()
    }

    /// The request of that number, counted from 0, when it has come.
    pub async fn asked(&self, number: usize) -> Ask {
        let mut counts = self.shared.counts.subscribe();
        soon("a request", counts.wait_for(|(asked, _)| *asked > number)).await.expect("the model lives");
        self.journal()[number].clone()
    }

    /// Waits until that many clients have left in the middle of an answer.
    pub async fn left(&self, number: usize) {
        let mut counts = self.shared.counts.subscribe();
        soon("a client that leaves", counts.wait_for(|(_, left)| *left >= number)).await.expect("the model lives");
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A client that goes away ends only its own answer.
            let _ = answer(stream, &shared).await;
        });
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let Some(ask) = read_request(&mut stream, shared.dialect).await? else { return Ok(()) };
    shared.journal.lock().expect("the journal").push(ask);
    let steps = shared.answers.lock().expect("the script").pop_front();
    shared.counts.send_modify(|(asked, _)| *asked += 1);
    // 400, so that a script that is too short ends the turn at once.
    let steps = steps.unwrap_or_else(|| vec![refusal(400, "the script has no more answers")]);
    let played = play(&mut stream, shared.dialect, steps).await;
    if played.is_err() {
        shared.counts.send_modify(|(_, left)| *left += 1);
    }
    played
}

async fn play(stream: &mut TcpStream, dialect: Dialect, steps: Vec<Step>) -> std::io::Result<()> {
    if let [Step::Http { status, headers, body }] = steps.as_slice() {
        let body = body.to_string();
        let mut head =
            format!("HTTP/1.1 {status} Something\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        head.push_str("content-type: application/json\r\n");
        head.extend(headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
        return stream.shutdown().await;
    }
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    let mut writer = Writer::new(dialect, &steps);
    send(stream, &writer.begin()).await?;
    for step in steps {
        match step {
            Step::Text(words) => {
                for word in words.split_inclusive(' ') {
                    send(stream, &writer.text(word)).await?;
                }
            }
            Step::Slowly(words, pause) => {
                for word in words.split_inclusive(' ') {
                    tokio::time::sleep(pause).await;
                    send(stream, &writer.text(word)).await?;
                }
            }
            Step::Reasoning { text, signature } => {
                for word in text.split_inclusive(' ') {
                    send(stream, &writer.reasoning(word)).await?;
                }
                send(stream, &writer.sign(signature)).await?;
            }
            Step::Call { name, input } => {
                send(stream, &writer.call(&name)).await?;
                for piece in pieces(&input) {
                    send(stream, &writer.input(piece)).await?;
                }
            }
            Step::Usage(_) | Step::Finish(_) => {}
            Step::Wait(gate) => tokio::select! {
                () = gate.pass() => {}
                () = gone(stream) => return Err(std::io::ErrorKind::ConnectionReset.into()),
            },
            Step::Stall => {
                gone(stream).await;
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            Step::Pings(pause) => loop {
                send(stream, &writer.ping()).await?;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = gone(stream) => return Err(std::io::ErrorKind::ConnectionReset.into()),
                }
            },
            Step::Cut => return Ok(()),
            Step::Garbage => send(stream, "data: {\"this is\": no JSON\n\n").await?,
            Step::Http { .. } => panic!("an HTTP error has to be the only step of its answer"),
        }
    }
    send(stream, &writer.end()).await?;
    stream.write_all(b"0\r\n\r\n").await?;
    stream.shutdown().await
}

/// Pieces of a few characters, as models send arguments.
fn pieces(mut text: &str) -> Vec<&str> {
    let size = (text.len() / 8).max(4);
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.ceil_char_boundary(size));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

/// One chunk of a chunked body.
async fn send(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}

/// Waits until the client has closed the connection.
async fn gone(stream: &mut TcpStream) {
    let mut byte = [0];
    while let Ok(1..) = stream.read(&mut byte).await {}
}

async fn read_request(stream: &mut TcpStream, dialect: Dialect) -> std::io::Result<Option<Ask>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let mut lines = text.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    let body = serde_json::from_slice(&bytes[head + 4..]).unwrap_or(Value::Null);
    assert_eq!(path, wire::path(dialect));
    Ok(Some(Ask { dialect, headers, body }))
}
