//! Every operation through any door, with one answer for all of them.

use serde_json::{Value, json};
use tonic::metadata::MetadataMap;

use super::{
    Answer, Following, Rest, Server, Sse,
    alike::alike,
    permissions::with_mode,
    rpc::{self, Rpc},
};

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Rest,
    Grpc,
    GrpcWeb,
}

/// A client of one door.
#[derive(Clone)]
pub struct Client {
    pub(super) door: Door,
    pub(super) rest: Rest,
    pub(super) rpc: Rpc,
    /// The reply token, if it has one.
    pub(super) token: Option<String>,
}

/// A good answer: the body as REST has it, and the cursor that came with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub body: Value,
    pub cursor: Option<String>,
}

/// An error, checked against the contract's table of codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    pub detail: String,
    pub fields: Vec<String>,
    pub retryable: bool,
}

pub type Outcome = Result<Reply, Refusal>;

/// Each code with its status in REST and in gRPC.
pub const CODES: [(&str, u16, tonic::Code); 19] = [
    ("invalid_argument", 400, tonic::Code::InvalidArgument),
    ("unauthenticated", 401, tonic::Code::Unauthenticated),
    ("rate_limited", 429, tonic::Code::ResourceExhausted),
    ("permission_denied", 403, tonic::Code::PermissionDenied),
    ("not_found", 404, tonic::Code::NotFound),
    ("agent_busy", 409, tonic::Code::FailedPrecondition),
    ("stale_turn", 409, tonic::Code::FailedPrecondition),
    ("already_resolved", 409, tonic::Code::FailedPrecondition),
    ("no_model", 409, tonic::Code::FailedPrecondition),
    ("already_exists", 409, tonic::Code::AlreadyExists),
    ("in_progress", 409, tonic::Code::Aborted),
    ("idempotency_key_reused", 422, tonic::Code::InvalidArgument),
    ("precondition_failed", 412, tonic::Code::Aborted),
    ("range_not_satisfiable", 416, tonic::Code::OutOfRange),
    ("too_large", 413, tonic::Code::OutOfRange),
    ("patch_incomplete", 422, tonic::Code::FailedPrecondition),
    ("unimplemented", 501, tonic::Code::Unimplemented),
    ("unavailable", 503, tonic::Code::Unavailable),
    ("insufficient_storage", 507, tonic::Code::ResourceExhausted),
];

impl Server {
    /// A client of this door.
    pub fn through(&self, door: Door) -> Client {
        let rpc = match door {
            Door::Grpc => Rpc::grpc(&self.rest.base),
            Door::Rest | Door::GrpcWeb => Rpc::web(&self.rest.base),
        };
        Client { door, rest: self.rest.clone(), rpc, token: None }
    }
}

impl Client {
    pub async fn health(&self) -> Outcome {
        let reply = self.call(("GET", "/health", None), ("Health", json!({}))).await?;
        let mut body = reply.body.clone();
        // The published name of the checks in gRPC.
        if let Some(details) = body.as_object_mut().and_then(|body| body.remove("details")) {
            body["checks"] = details;
        }
        Ok(Reply { body, ..reply })
    }

    pub async fn get_session(&self) -> Outcome {
        self.call(("GET", "/session", None), ("GetSession", json!({}))).await
    }

    pub async fn get_session_stats(&self) -> Outcome {
        self.call(("GET", "/session/stats", None), ("GetSessionStats", json!({}))).await
    }

    /// `query` has `limit`, `offset`, `cursor`, `order`, `turn_id`.
    pub async fn list_ledger(&self, query: Value) -> Outcome {
        let mut wish = json!({"pagination": page(&query), "turn_id": query["turn_id"].as_str().unwrap_or_default()});
        if let Some(order) = query["order"].as_str() {
            wish["order"] = format!("SORT_ORDER_{}", order.to_uppercase()).into();
        }
        self.call(("GET", &with_query("/session/ledger", &query), None), ("ListLedger", wish)).await
    }

    pub async fn update_session(&self, change: Value) -> Outcome {
        let rpc = with_mode(change.clone());
        self.call(("PATCH", "/session", Some(change)), ("UpdateSession", rpc)).await
    }

    pub async fn reset_session(&self, wish: Value) -> Outcome {
        self.call(("POST", "/session/reset", Some(wish.clone())), ("ResetSession", wish)).await
    }

    /// `query` has `limit`, `offset`, `cursor`, `order`, `role`.
    pub async fn list_messages(&self, query: Value) -> Outcome {
        let mut wish = json!({"pagination": page(&query)});
        for (from, to, prefix) in [("order", "order", "SORT_ORDER_"), ("role", "role_filter", "MESSAGE_ROLE_")] {
            if let Some(value) = query[from].as_str() {
                wish[to] = format!("{prefix}{}", value.to_uppercase()).into();
            }
        }
        self.call(("GET", &with_query("/messages", &query), None), ("ListMessages", wish)).await
    }

    pub async fn get_message(&self, id: &Value) -> Outcome {
        let path = format!("/messages/{}", text(id));
        self.call(("GET", &path, None), ("GetMessage", json!({ "message_id": id }))).await
    }

    /// The bytes of a part, and their type.
    pub async fn get_message_part(&self, id: &Value, index: i32) -> Result<(Vec<u8>, String), Refusal> {
        if self.door == Door::Rest {
            let answer = self.rest.get(&format!("/messages/{}/parts/{index}", text(id))).await;
            if answer.status != 200 {
                return Err(refusal(answer));
            }
            assert!(answer.header("event-cursor").is_some());
            let mime_type = answer.header("content-type").expect("a type").to_owned();
            return Ok((answer.body, mime_type));
        }
        let request = json!({"message_id": id, "index": index});
        let mut call = self.rpc.call("GetMessagePart", &request).await.map_err(|status| refused(&status))?;
        assert!(call.metadata.contains_key("event-cursor"));
        let (mut data, mut mime_type, mut size) = (Vec::new(), String::new(), None);
        while let Some(chunk) = call.next().await {
            let chunk = chunk.expect("a chunk");
            data.extend(base64(&chunk["data"]));
            if size.is_none() {
                mime_type = text(&chunk["mime_type"]).to_owned();
                size = chunk["size"].as_u64();
            }
        }
        assert_eq!(size, Some(data.len() as u64), "the first chunk tells the size of all");
        Ok((data, mime_type))
    }

    pub async fn clear_messages(&self) -> Outcome {
        self.call(("DELETE", "/messages", None), ("ClearMessages", json!({}))).await
    }

    pub async fn get_turn(&self, id: &Value, wait: i32) -> Outcome {
        let path = format!("/turns/{}?wait={wait}", text(id));
        self.call(("GET", &path, None), ("GetTurn", json!({"turn_id": id, "wait": wait}))).await
    }

    pub async fn list_turns(&self, query: Value) -> Outcome {
        let wish = json!({"pagination": page(&query)});
        self.call(("GET", &with_query("/turns", &query), None), ("ListTurns", wish)).await
    }

    pub async fn get_agent_status(&self) -> Outcome {
        self.call(("GET", "/agent/status", None), ("GetAgentStatus", json!({}))).await
    }

    pub async fn cancel_agent(&self, wish: Value) -> Outcome {
        self.call(("POST", "/agent/cancel", Some(wish.clone())), ("CancelAgent", wish)).await
    }

    pub async fn set_model(&self, wish: Value) -> Outcome {
        self.call(("PUT", "/agent/model", Some(wish.clone())), ("SetModel", wish)).await
    }

    pub async fn list_models(&self, query: Value) -> Outcome {
        self.call(("GET", &with_query("/models", &query), None), ("ListModels", query)).await
    }

    /// `query` has `after`, `turn_id`, `limit`, `wait`, and `types` as a comma list.
    pub async fn list_events(&self, query: Value) -> Outcome {
        if self.door == Door::Rest {
            let request = self.rest.request("GET", &with_query("/events", &query));
            return whole(Answer::of(request.header("accept", "application/json")).await);
        }
        let mut reply = self.unary("ListEvents", events_wish(&query)).await?;
        // REST has the events as the log has them, without a cursor for each.
        for event in reply.body["events"].as_array_mut().expect("a list") {
            event.as_object_mut().expect("an event").remove("cursor");
        }
        Ok(reply)
    }

    /// The stream of events; `query` as of [`Self::list_events`].
    pub async fn stream_events(&self, query: Value) -> Result<Following, Refusal> {
        self.follow(("GET", &with_query("/events", &query), None), ("StreamEvents", events_wish(&query))).await
    }

    pub async fn stream_messages(&self, query: Value) -> Result<Following, Refusal> {
        self.follow(("GET", &with_query("/messages/stream", &query), None), ("StreamMessages", query)).await
    }

    /// Sends a message and answers the stream of its turn. `wish` as REST has it, without `text`.
    pub async fn send_message(&self, wish: Value) -> Result<Following, Refusal> {
        let rpc = send_wish(&wish);
        self.follow(("POST", "/messages", Some(wish)), ("SendMessage", rpc)).await
    }

    /// Sends a message and answers the turn as soon as it is accepted.
    pub async fn begin_turn(&self, wish: Value) -> Outcome {
        if self.door == Door::Rest {
            let request = self.request("POST", "/messages").header("prefer", "respond-async").json(&wish);
            let answer = Answer::of(request).await;
            if answer.status != 202 {
                return Err(refusal(answer));
            }
            let body = answer.json_with(202)["turn"].clone();
            return Ok(Reply { body, cursor: None });
        }
        let mut request = send_wish(&wish);
        request["detach"] = true.into();
        let reply = self.unary("SendMessage", request).await?;
        Ok(Reply { body: reply.body["turn"].clone(), cursor: None })
    }

    pub(super) async fn call(&self, rest: (&str, &str, Option<Value>), rpc: (&str, Value)) -> Outcome {
        if self.door != Door::Rest {
            return self.unary(rpc.0, rpc.1).await;
        }
        let request = self.request(rest.0, rest.1);
        let request = if let Some(body) = rest.2 { request.json(&body) } else { request };
        whole(Answer::of(request).await)
    }

    pub(super) async fn unary(&self, name: &str, request: Value) -> Outcome {
        let (message, metadata) = self.rpc.unary(name, &request).await.map_err(|status| refused(&status))?;
        let mut body = alike(message);
        // What is wrapped here is the body itself there.
        for wrapped in ["session", "message", "turn", "model", "permission"] {
            if body.as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key(wrapped)) {
                body = body[wrapped].take();
            }
        }
        if body == json!({}) {
            body = Value::Null;
        }
        Ok(Reply { body, cursor: cursor(&metadata) })
    }

    async fn follow(&self, rest: (&str, &str, Option<Value>), rpc: (&str, Value)) -> Result<Following, Refusal> {
        if self.door != Door::Rest {
            let call = self.rpc.call(rpc.0, &rpc.1).await.map_err(|status| refused(&status))?;
            return Ok(Following::Rpc(call));
        }
        let request = self.request(rest.0, rest.1);
        let request = if let Some(body) = rest.2 { request.json(&body) } else { request };
        match Sse::try_open(request).await {
            Ok(stream) => Ok(Following::Sse(Box::new(stream))),
            Err(answer) => Err(refusal(answer)),
        }
    }
}

pub(super) fn whole(answer: Answer) -> Outcome {
    let cursor = answer.header("event-cursor").map(str::to_owned);
    match answer.status {
        200 => Ok(Reply { body: answer.ok(), cursor }),
        204 => {
            assert!(answer.body.is_empty());
            Ok(Reply { body: Value::Null, cursor })
        }
        _ => Err(refusal(answer)),
    }
}

pub(super) fn refusal(answer: Answer) -> Refusal {
    let status = answer.status;
    let code = serde_json::from_slice::<Value>(&answer.body).expect("a problem")["code"].clone();
    let problem = answer.problem(status, text(&code));
    let known = CODES.iter().find(|(known, ..)| code == *known).unwrap_or_else(|| panic!("no code: {problem}"));
    assert_eq!(status, known.1, "{problem}");
    let fields = problem["errors"].as_array().into_iter().flatten();
    Refusal {
        code: text(&code).to_owned(),
        detail: text(&problem["detail"]).to_owned(),
        fields: fields.map(|bad| text(&bad["field"]).to_owned()).collect(),
        retryable: problem["retryable"] == true,
    }
}

pub(super) fn refused(status: &tonic::Status) -> Refusal {
    let details = rpc::details(status);
    let code = details.reason.to_lowercase();
    let known = CODES.iter().find(|(known, ..)| code == *known).unwrap_or_else(|| panic!("no code: {status:?}"));
    assert_eq!((status.code(), &details.reason), (known.2, &known.0.to_uppercase()), "{status:?}");
    assert!(!details.request_id.is_empty(), "{status:?}");
    Refusal { code, detail: status.message().to_owned(), fields: details.fields, retryable: details.retryable }
}

fn cursor(metadata: &MetadataMap) -> Option<String> {
    metadata.get("event-cursor").map(|cursor| cursor.to_str().expect("text").to_owned())
}

pub(super) fn page(query: &Value) -> Value {
    let fields = query.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| ["limit", "offset", "cursor"].contains(&name.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn events_wish(query: &Value) -> Value {
    let mut wish = query.clone();
    if let Some(types) = query["types"].as_str() {
        wish["types"] = types.split(',').collect();
    }
    wish
}

/// The parts of a message as the proto has them: the tag is the name of the member.
pub fn send_wish(wish: &Value) -> Value {
    let mut wish = wish.clone();
    for part in wish["parts"].as_array_mut().into_iter().flatten() {
        let mut fields = part.as_object().expect("a part").clone();
        let kind = fields.remove("type").expect("a type");
        *part = json!({ text(&kind): fields });
    }
    if let Some(way) = wish["when_busy"].as_str() {
        wish["when_busy"] = format!("WHEN_BUSY_{}", way.to_uppercase()).into();
    }
    with_mode(wish)
}

pub(super) fn with_query(path: &str, query: &Value) -> String {
    let fields = query.as_object().into_iter().flatten();
    let pairs = fields.map(|(name, value)| match value {
        Value::String(text) => (name.clone(), text.clone()),
        other => (name.clone(), other.to_string()),
    });
    let mut pairs = pairs.peekable();
    if pairs.peek().is_none() {
        return path.to_owned();
    }
    format!("{path}?{}", serde_urlencoded::to_string(pairs.collect::<Vec<_>>()).expect("a query"))
}

pub(super) fn base64(value: &Value) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(text(value)).expect("base64")
}

#[track_caller]
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}
