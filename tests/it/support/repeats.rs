//! Requests with a key, through any door: the answer, and whether it says that it was given before.

use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;

use super::{
    Answer, Following, Sse,
    doors::{Client, Door, Refusal, refusal, refused, send_wish},
};

/// An answer, and whether it is one of before.
pub type Keyed<T> = Result<(T, bool), Refusal>;

/// What a client hears of a server that may be killed.
#[derive(Debug)]
pub enum Tried {
    /// It was accepted, now or before.
    Accepted(bool),
    /// It was not, and why.
    Refused(String),
    /// Nobody knows.
    Cut,
}

impl Client {
    /// Sends a message under a key and answers the stream of its turn.
    pub async fn send_keyed(&self, wish: &Value, key: &str, after: Option<&str>) -> Keyed<Following> {
        if self.door == Door::Rest {
            let mut request = self.rest.request("POST", "/messages").header("idempotency-key", value(key)).json(wish);
            if let Some(after) = after {
                request = request.header("last-event-id", after);
            }
            return match Sse::try_open(request).await {
                Ok(stream) => {
                    let replayed = stream.replayed;
                    Ok((Following::Sse(Box::new(stream)), replayed))
                }
                Err(answer) => Err(refusal(answer)),
            };
        }
        let mut request = with_key(&send_wish(wish), key);
        request["after"] = after.unwrap_or_default().into();
        let call = self.rpc.call("SendMessage", &request).await.map_err(|status| refused(&status))?;
        let replayed = is_replayed(&call.metadata);
        Ok((Following::Rpc(call), replayed))
    }

    /// Sends a message under a key and answers its turn at once.
    pub async fn begin_keyed(&self, wish: &Value, key: &str) -> Keyed<Value> {
        let mut request = with_key(&send_wish(wish), key);
        request["detach"] = true.into();
        let (body, replayed) = self.keyed(("/messages", wish, key), ("SendMessage", request)).await?;
        Ok((body["turn"].clone(), replayed))
    }

    /// Sends a message to a server that may be killed meanwhile.
    pub async fn try_keyed(&self, wish: &Value, key: &str) -> Tried {
        if self.door == Door::Rest {
            let request = self.rest.request("POST", "/messages").header("idempotency-key", key).json(wish);
            return match request.send().await {
                Ok(answer) if answer.status() == 200 => {
                    Tried::Accepted(answer.headers().contains_key("idempotent-replayed"))
                }
                Ok(answer) => Tried::Refused(answer.status().to_string()),
                Err(_) => Tried::Cut,
            };
        }
        match self.rpc.call("SendMessage", &with_key(&send_wish(wish), key)).await {
            Ok(call) => Tried::Accepted(is_replayed(&call.metadata)),
            Err(status)
                if status.metadata().contains_key("grpc-status-details-bin") || !status.details().is_empty() =>
            {
                Tried::Refused(status.message().to_owned())
            }
            Err(_) => Tried::Cut,
        }
    }

    pub async fn reset_keyed(&self, wish: &Value, key: &str) -> Keyed<Value> {
        self.keyed(("/session/reset", wish, key), ("ResetSession", with_key(wish, key))).await
    }

    pub async fn revert_keyed(&self, wish: &Value, key: &str) -> Keyed<Value> {
        self.keyed(("/files/revert", wish, key), ("RevertFiles", with_key(wish, key))).await
    }

    async fn keyed(&self, (path, body, key): (&str, &Value, &str), rpc: (&str, Value)) -> Keyed<Value> {
        if self.door == Door::Rest {
            let request = self.rest.request("POST", path).header("idempotency-key", value(key));
            let answer = Answer::of(request.header("prefer", "respond-async").json(body)).await;
            let (status, replayed) = (answer.status, answer.header("idempotent-replayed") == Some("true"));
            return if status < 300 { Ok((answer.json_with(status), replayed)) } else { Err(refusal(answer)) };
        }
        let (mut message, metadata) = self.rpc.unary(rpc.0, &rpc.1).await.map_err(|status| refused(&status))?;
        if message.get("session").is_some() {
            message = message["session"].take();
        }
        Ok((message, is_replayed(&metadata)))
    }
}

/// A key as it stands in a header, be it one or not.
fn value(key: &str) -> HeaderValue {
    HeaderValue::from_bytes(key.as_bytes()).expect("bytes of a header")
}

fn with_key(wish: &Value, key: &str) -> Value {
    let mut wish = wish.clone();
    wish["idempotency_key"] = json!(key);
    wish
}

fn is_replayed(metadata: &MetadataMap) -> bool {
    metadata.get("idempotent-replayed").is_some_and(|value| value == "true")
}
