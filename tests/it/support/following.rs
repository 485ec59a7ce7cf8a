//! A stream through any door, and its events as the first has them.

use serde_json::Value;

use super::{
    Event, Sse,
    alike::alike,
    rpc::Call,
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
