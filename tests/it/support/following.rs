//! A stream through any door, and its events as the first has them.

use serde_json::{Value, json};
use tonic::Code;

use super::{
    Event, Sse,
    alike::alike,
    rpc::{self, Call},
    sse::{Events, all, up_to},
};

/// A stream through any door.
pub enum Following {
    Sse(Box<Sse>),
    Rpc(Call),
}

impl Following {
    /// The next event; `None` at the end. Messages of gRPC without a member are passed over, as clients do it.
    pub async fn event(&mut self) -> Option<Event> {
        match self {
            Self::Sse(stream) => stream.event().await,
            Self::Rpc(call) => loop {
                let message = call.next().await?.unwrap_or_else(|status| panic!("the stream failed: {status:?}"));
                if let Some(event) = event(alike(message)) {
                    return Some(event);
                }
            },
        }
    }

    /// The next event; `None` at the end, also where the server was killed.
    pub async fn event_before_cut(&mut self) -> Option<Event> {
        match self {
            Self::Sse(stream) => stream.event().await,
            Self::Rpc(call) => loop {
                if let Some(event) = event(alike(call.next().await?.ok()?)) {
                    return Some(event);
                }
            },
        }
    }

    /// The events up to the end of the stream, which the server closes since it ends itself, and the cursor there.
    pub async fn until_closed(&mut self) -> (Vec<Event>, String) {
        let mut events = Vec::new();
        match self {
            Self::Sse(stream) => {
                events = stream.rest().await;
                let closed = events.pop().expect("a last frame");
                assert_eq!((closed.name.as_str(), &closed.json["code"]), ("stream_closed", &json!("draining")));
                assert_eq!(closed.json["retryable"], true);
                (events, closed.id)
            }
            Self::Rpc(call) => loop {
                match call.next().await.expect("a status that says why") {
                    Ok(message) => events.extend(event(alike(message))),
                    Err(status) => {
                        let details = rpc::details(&status);
                        assert_eq!((status.code(), details.reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
                        let cursor = status.metadata().get("event-cursor").expect("a cursor");
                        return (events, cursor.to_str().expect("text").to_owned());
                    }
                }
            },
        }
    }

    pub async fn rest(&mut self) -> Vec<Event> {
        all(self).await
    }

    pub async fn until(&mut self, name: &str) -> Vec<Event> {
        up_to(name, self).await
    }
}

impl Events for Following {
    fn following(&mut self) -> impl Future<Output = Option<Event>> + Send {
        self.event()
    }
}

/// An event as REST has it, of a message of any of the three streams.
fn event(mut message: Value) -> Option<Event> {
    let name = message["type"].as_str()?.to_owned();
    let fields = message.as_object_mut().expect("an object");
    let id = fields.remove("cursor").and_then(|cursor| cursor.as_str().map(str::to_owned)).unwrap_or_default();
    if fields["seq"] == 0 {
        fields.remove("seq");
    }
    Some(Event { id, name, json: message })
}
