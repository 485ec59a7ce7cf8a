//! Server-sent events as a browser reads them, by hand: this reader is a judge, so it borrows nothing.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::RequestBuilder;
use serde_json::Value;

use super::{Answer, soon};

/// One block of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<String>,
    pub retry: Option<String>,
    pub comment: Option<String>,
}

/// An event, as a frame of a stream or an item of a page has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its cursor; pages have none for each.
    pub id: String,
    pub name: String,
    pub json: Value,
}

impl Event {
    pub fn of_page(json: Value) -> Self {
        let name = json["type"].as_str().expect("a type").to_owned();
        Self { id: String::new(), name, json }
    }

    pub fn seq(&self) -> u64 {
        self.json["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {}", self.json))
    }

    /// The message that it carries, if it does.
    pub fn message(&self) -> Option<&Value> {
        self.json.get("message").filter(|message| message.is_object())
    }

    pub fn turn_id(&self) -> &Value {
        &self.json["turn_id"]
    }
}

/// The names of events, for short assertions.
pub fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

/// Fails with the first event that differs, where a whole list would say too much.
#[track_caller]
pub fn assert_same(found: &[Event], expected: &[Event]) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(names(found), names(expected));
}

/// The names of events without the deltas and neighbouring repeats.
pub fn outline(events: &[Event]) -> Vec<&str> {
    let mut outline = names(events);
    outline.retain(|name| !name.ends_with("_delta"));
    outline.dedup();
    outline
}

/// A stream that is being read.
pub struct Sse {
    chunks: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    buffer: Vec<u8>,
    /// Every byte that came.
    pub raw: Vec<u8>,
    /// The last id that came: what a browser would send when it reconnects.
    pub last_id: Option<String>,
    /// It was opened before, under the same key.
    pub replayed: bool,
}

impl Sse {
    /// Sends the request, which has to be answered with a stream.
    pub async fn open(request: RequestBuilder) -> Self {
        Self::try_open(request).await.unwrap_or_else(|answer| panic!("no stream but {}", answer.text()))
    }

    /// Sends the request, which is answered with a stream or not at all.
    pub async fn try_open(request: RequestBuilder) -> Result<Self, Answer> {
        let response = soon("a stream", request.send()).await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if headers.get("content-type").is_none_or(|kind| kind != "text/event-stream") {
            let body = response.bytes().await.unwrap_or_default().to_vec();
            return Err(Answer { status, headers, body });
        }
        assert_eq!(status, 200);
        assert_eq!(headers["cache-control"], "no-cache, no-transform");
        assert_eq!(headers["x-accel-buffering"], "no");
        let replayed = headers.get("idempotent-replayed").is_some_and(|value| value == "true");
        let chunks = Box::pin(response.bytes_stream());
        Ok(Self { chunks, buffer: Vec::new(), raw: Vec::new(), last_id: None, replayed })
    }

    /// The next block; `None` at the end. A stream that breaks off in the middle of a block fails the test.
    pub async fn frame(&mut self) -> Option<Frame> {
        let frame = soon("a frame", self.read_frame()).await?;
        if let Some(id) = &frame.id {
            self.last_id = Some(id.clone());
        }
        Some(frame)
    }

    async fn read_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(parse(std::str::from_utf8(&block).expect("UTF-8")));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => {
                    self.buffer.extend_from_slice(&chunk);
                    self.raw.extend_from_slice(&chunk);
                }
                // A server that was killed.
                Some(Err(_)) => return None,
                None => {
                    assert!(self.buffer.is_empty(), "a block without its end: {:?}", self.buffer);
                    return None;
                }
            }
        }
    }

    /// The next event, passing over blocks without data; `None` at the end.
    pub async fn event(&mut self) -> Option<Event> {
        // Heartbeats keep a stream alive, not a test.
        soon("an event", self.read_event()).await
    }

    async fn read_event(&mut self) -> Option<Event> {
        loop {
            let frame = self.frame().await?;
            let Some(data) = frame.data else { continue };
            let json: Value = serde_json::from_str(&data).expect("JSON");
            let name = frame.event.expect("every event has a name");
            assert_eq!(json["type"], name, "{json}");
            assert!(!["error", "open", "message"].contains(&name.as_str()), "a name that EventSource uses: {name}");
            return Some(Event { id: frame.id.unwrap_or_default(), name, json });
        }
    }

    /// The next event, which has to come.
    pub async fn next(&mut self) -> Event {
        self.event().await.expect("one more event")
    }

    /// Everything up to the delta that ends with these words; how many deltas there are is the provider's business.
    pub async fn until_said(&mut self, words: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            events.push(self.next().await);
            let last = &events[events.len() - 1];
            if last.name == "content_delta" && last.json["text"].as_str().is_some_and(|text| text.ends_with(words)) {
                return events;
            }
        }
    }

    /// Everything up to the next event of that name, which is the last of the answer.
    pub async fn until(&mut self, name: &str) -> Vec<Event> {
        up_to(name, self).await
    }

    /// Everything up to the end of the stream.
    pub async fn rest(&mut self) -> Vec<Event> {
        all(self).await
    }

    /// As [`Self::rest`], when all that is expected has a known last number.
    pub async fn through(&mut self, seq: u64) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        while events.last().is_none_or(|event| event.seq() < seq) {
            events.push(self.next().await);
        }
        events
    }
}

/// Whatever gives events, one after the other.
pub trait Events: Send {
    /// The next one; `None` at the end.
    fn following(&mut self) -> impl Future<Output = Option<Event>> + Send;
}

impl Events for Sse {
    fn following(&mut self) -> impl Future<Output = Option<Event>> + Send {
        self.event()
    }
}

/// The events up to the next one of that name, which has to come.
pub async fn up_to(name: &str, stream: &mut impl Events) -> Vec<Event> {
    let reading = async {
        let mut events = Vec::new();
        while let Some(event) = stream.following().await {
            let found = event.name == name;
            events.push(event);
            if found {
                return events;
            }
        }
        panic!("the stream ended before {name}: {:?}", names(&events));
    };
    soon(name, reading).await
}

/// The events up to the end of the stream, which has to come.
pub async fn all(stream: &mut impl Events) -> Vec<Event> {
    let reading = async {
        let mut events = Vec::new();
        while let Some(event) = stream.following().await {
            events.push(event);
        }
        events
    };
    soon("the end of the stream", reading).await
}

fn parse(block: &str) -> Frame {
    let mut frame = Frame::default();
    for line in block.lines().filter(|line| !line.is_empty()) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        let place = match field {
            "" => &mut frame.comment,
            "id" => &mut frame.id,
            "event" => &mut frame.event,
            "data" => &mut frame.data,
            "retry" => &mut frame.retry,
            other => panic!("unknown field {other:?} in {block:?}"),
        };
        assert_eq!(place.replace(value), None, "a field twice in one block: {block:?}");
    }
    frame
}
