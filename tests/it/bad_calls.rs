//! Bad calls through gRPC and gRPC-Web: the same codes as in REST, with details that programs can read.

use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::support::{
    Dialect, Gate, Model, Server, Setup, Step,
    model::text,
    rpc::{Rpc, details},
    soon,
};

async fn ready() -> (Model, Server) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let server = Setup::with(&model).start();
    (model, server)
}

/// The two forms of the second door, each with a request id of its own.
fn both(server: &Server) -> [(&'static str, Rpc); 2] {
    let (grpc, web) = (Rpc::grpc(&server.rest.base), Rpc::web(&server.rest.base));
    [("my-grpc-1", grpc.header("x-request-id", "my-grpc-1")), ("my-web-2", web.header("x-request-id", "my-web-2"))]
}

/// An error of this code, with all that the contract promises; answers the names of its bad fields.
#[track_caller]
fn check(status: &Status, code: Code, reason: &str, id: &str) -> Vec<String> {
    assert_eq!(status.code(), code, "{status:?}");
    let details = details(status);
    assert_eq!((details.reason.as_str(), details.request_id.as_str()), (reason, id), "{status:?}");
    let retryable = ["AGENT_BUSY", "UNAVAILABLE", "INSUFFICIENT_STORAGE", "DEADLINE_EXCEEDED"].contains(&reason);
    assert_eq!(details.retryable, retryable, "{status:?}");
    details.fields
}

async fn refused(rpc: &Rpc, name: &str, request: &Value) -> Status {
    rpc.call(name, request).await.err().unwrap_or_else(|| panic!("{name} takes {request}"))
}

#[tokio::test]
async fn requests_that_are_refused() {
    let (model, server) = ready().await;
    let words = json!({"text": {"text": "Look."}});
    let part = |part: Value| json!({"parts": [words, part]});
    let file = |file: Value| json!({"parts": [words], "attachments": [file]});
    let say = |name: &str, value: Value| json!({"parts": [words], name: value});
    let page = |page: Value| json!({ "pagination": page });
    let send = "SendMessage";
    let cases: Vec<(&str, Value, &str)> = vec![
        (send, json!({}), "parts"),
        (send, json!({"parts": [{}]}), "parts[0]"),
        (send, part(json!({"text": {}})), "parts[1].text"),
        (send, part(json!({"tool_call": {"name": "ls"}})), "parts[1]"),
        (send, part(json!({"tool_result": {}})), "parts[1]"),
        (send, part(json!({"finish": {}})), "parts[1]"),
        (send, part(json!({"reasoning": {"thinking": "Hm."}})), "parts[1]"),
        (send, part(json!({"binary": {}})), "parts[1]"),
        (send, part(json!({"binary": {"path": "README.md", "data": "eA=="}})), "parts[1]"),
        (send, part(json!({"binary": {"data": "eA==", "base64_data": "eA=="}})), "parts[1]"),
        (send, part(json!({"binary": {"base64_data": "no base64"}})), "parts[1].base64_data"),
        (send, part(json!({"binary": {"data": "eA==", "mime_type": "nonsense"}})), "parts[1].mime_type"),
        (send, part(json!({"binary": {"path": "a//b"}})), "parts[1].path"),
        (send, file(json!({"path": "a//b"})), "attachments[0].path"),
        (send, say("model", json!("gpt-5.22")), "model"),
        (send, file(json!({"content": "a"})), "attachments[0].path"),
        (send, file(json!({"path": "a.png", "content": "no base64"})), "attachments[0].content"),
        (send, file(json!({"path": "a", "content": "four", "size": 5})), "attachments[0].size"),
        (send, say("idempotency_key", json!("ä")), "idempotency_key"),
        (send, say("permission_mode", json!(99)), "permission_mode"),
        (send, say("when_busy", json!(99)), "when_busy"),
        (send, say("turn_id", json!("turn_1")), "turn_id"),
        (send, say("budget", json!({"model_calls": 101})), "budget.model_calls"),
        (send, say("after", json!("0")), "after"),
        ("ListMessages", page(json!({"limit": -1})), "limit"),
        ("ListMessages", page(json!({"limit": 201})), "limit"),
        ("ListMessages", page(json!({"limit": i32::MAX, "offset": 1})), "limit"),
        ("ListMessages", page(json!({"limit": i32::MIN})), "limit"),
        ("ListMessages", page(json!({"offset": -1})), "offset"),
        ("ListMessages", page(json!({"offset": 1, "cursor": "abc"})), "offset"),
        ("ListMessages", page(json!({"cursor": "abc"})), "cursor"),
        ("ListMessages", json!({"role_filter": 99}), "role_filter"),
        ("ListMessages", json!({"order": 99}), "order"),
        ("ListTurns", page(json!({"limit": -1})), "limit"),
        ("ListTurns", page(json!({"cursor": "abc"})), "cursor"),
        ("ListLedger", page(json!({"limit": -1})), "limit"),
        ("ListLedger", json!({"order": 99}), "order"),
        ("GetTurn", json!({"turn_id": "turn_nobody", "wait": -1}), "wait"),
        ("GetTurn", json!({"turn_id": "turn_nobody", "wait": 61}), "wait"),
        ("GetMessagePart", json!({"message_id": "msg_nobody"}), "index"),
        ("StreamEvents", json!({"after": "nonsense"}), "after"),
        ("StreamEvents", json!({"types": ["nonsense"]}), "types"),
        ("StreamMessages", json!({"after": "nonsense"}), "after"),
        ("ListEvents", json!({"limit": -1}), "limit"),
        ("ListEvents", json!({"limit": 1001}), "limit"),
        ("ListEvents", json!({"wait": 61}), "wait"),
        ("ListEvents", json!({"after": "nonsense"}), "after"),
        ("UpdateSession", json!({}), "title"),
        ("UpdateSession", json!({"title": "x".repeat(10_000)}), "title"),
        ("UpdateSession", json!({"title": "a", "permission_mode": 99}), "permission_mode"),
        ("ResetSession", json!({"idempotency_key": "k".repeat(256)}), "idempotency_key"),
        ("SetModel", json!({}), "model_id"),
        ("SetModel", json!({"model_id": "gpt-5.22"}), "model_id"),
        ("ListModels", json!({"provider": "nobody"}), "provider"),
    ];
    for (id, rpc) in both(&server) {
        let mut wrong = Vec::new();
        for (name, request, field) in &cases {
            match rpc.call(name, request).await {
                Ok(_) => wrong.push(format!("{name} takes {request}")),
                Err(status) => {
                    let fields = check(&status, Code::InvalidArgument, "INVALID_ARGUMENT", id);
                    if fields != [*field] {
                        wrong.push(format!("{field:?}: {name} {request:.100} {status:?}"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let denied = [
            ("parts[1].path", part(json!({"binary": {"path": "../secret"}}))),
            ("attachments[0].path", file(json!({"path": "/etc/passwd"}))),
        ];
        for (field, request) in denied {
            let status = refused(&rpc, send, &request).await;
            assert_eq!(check(&status, Code::PermissionDenied, "PERMISSION_DENIED", id), [field]);
        }
        for (name, request) in [
            (send, file(json!({"path": "missing.txt"}))),
            ("GetMessage", json!({"message_id": "msg_nobody"})),
            ("GetMessage", json!({})),
            ("GetMessagePart", json!({"message_id": "msg_nobody", "index": 0})),
            ("GetTurn", json!({"turn_id": "turn_nobody"})),
        ] {
            check(&refused(&rpc, name, &request).await, Code::NotFound, "NOT_FOUND", id);
        }
        let much = json!({"parts": [{"text": {"text": "x".repeat(1024 * 1024)}}]});
        check(&refused(&rpc, send, &much).await, Code::OutOfRange, "TOO_LARGE", id);
        check(
            &refused(&rpc, send, &json!({"parts": vec![words.clone(); 101]})).await,
            Code::OutOfRange,
            "TOO_LARGE",
            id,
        );
        let unknown = refused(&rpc, "SetModel", &json!({"model_id": "gpt-5.22"})).await;
        check(&unknown, Code::InvalidArgument, "INVALID_ARGUMENT", id);
        assert!(unknown.message().contains("did you mean \"openai/gpt-5.2\"?"), "{unknown:?}");
        let off = refused(&rpc, send, &say("model", json!("openai/gpt-5.2"))).await;
        check(&off, Code::FailedPrecondition, "NO_MODEL", id);
    }
    assert!(server.rest.log().await.is_empty() && model.journal().is_empty(), "nothing was begun or stored");
}

#[tokio::test]
async fn what_there_is_not_is_unimplemented_in_words() {
    let (_model, server) = ready().await;
    for (id, rpc) in both(&server) {
        for path in [
            "/opencode.v1.OpenCodeService/Nothing",
            "/opencode.v1.OpenCodeService/getSession",
            "/opencode.v2.OpenCodeService/GetSession",
            "/nothing.at.all/Nothing",
            "/opencode.v1.OpenCodeService",
            "/grpc.health.v1.Health/Nothing",
            // Paths of the first door.
            "/messages",
            "/session",
            "/session/reset",
            "/agent/cancel",
            "/docs/",
            "/",
        ] {
            let status = rpc.post(path, Vec::new()).await.err().unwrap_or_else(|| panic!("{path} is served"));
            check(&status, Code::Unimplemented, "UNIMPLEMENTED", id);
            assert!(!status.message().is_empty());
        }
    }
    assert!(server.rest.log().await.is_empty(), "no call did what the path means to the first door");
}

#[tokio::test]
async fn messages_that_are_too_large_or_no_messages() {
    let model = Model::start(Dialect::OpenAi, []).await;
    let server = Setup::with(&model).env("OPENCODE_MAX_BODY_BYTES", 10_000).start();
    for (id, rpc) in both(&server) {
        let large = json!({"parts": [{"text": {"text": "x".repeat(10_001)}}]});
        check(&refused(&rpc, "SendMessage", &large).await, Code::OutOfRange, "TOO_LARGE", id);
        for message in [vec![0xff; 10], vec![0x0a, 0x7f], vec![0x08]] {
            let path = "/opencode.v1.OpenCodeService/SendMessage";
            let status = rpc.post(path, message).await.err().expect("an error");
            // That bytes are no message is the caller's mistake.
            check(&status, Code::InvalidArgument, "INVALID_ARGUMENT", id);
        }
        // Fields that are not known are refused, as in REST, or passed over, as programs of other versions count on.
        let unknown = rpc.post("/opencode.v1.OpenCodeService/GetSession", vec![0xf8, 0x7f, 0x01]).await;
        assert!(unknown.is_ok(), "{:?}", unknown.err());
    }
    assert!(model.journal().is_empty());
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_not_the_turn() {
    let (model, server) = ready().await;
    for (id, rpc) in both(&server) {
        let gate = Gate::new();
        model.then(vec![text("I "), Step::Wait(gate.clone()), text("am.")]);
        let rpc = rpc.header("grpc-timeout", "300m");
        let request = json!({"parts": [{"text": {"text": "Talk."}}]});
        // It runs over the whole stream.
        let mut call = rpc.call("SendMessage", &request).await.unwrap_or_else(|status| panic!("{status:?}"));
        let reading = async {
            loop {
                match call.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => break status,
                    None => panic!("the stream ended well"),
                }
            }
        };
        let status = soon("the deadline", reading).await;
        check(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", id);
        let running = server.rest.read("/agent/status").await;
        assert_eq!(running["status"], "processing");
        gate.open();
        let turn = server.rest.ended_turn(&running["turn_id"]).await;
        assert_eq!(turn["finish_reason"], "end_turn");
        // It ends a call that waits for something, too; tonic's own client would do that before the server.
        if id == "my-grpc-1" {
            continue;
        }
        let wait = json!({"after": server.rest.read("/messages").await["as_of"], "wait": 60});
        let status = refused(&rpc, "ListEvents", &wait).await;
        check(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", id);
    }
    let session = server.rest.read("/session").await;
    assert_eq!(session["message_count"], 4, "{session}");
    // To wait without a limit is not what a caller has asked for whose limit cannot be read.
    for (id, rpc) in both(&server) {
        for nonsense in ["soon", "1", "-1S", "123456789m", "1.5S", ""] {
            let status = refused(&rpc.clone().header("grpc-timeout", nonsense), "GetSession", &json!({})).await;
            let fields = check(&status, Code::InvalidArgument, "INVALID_ARGUMENT", id);
            assert_eq!(fields, ["grpc-timeout"], "{nonsense}");
        }
        assert!(rpc.header("grpc-timeout", "99999999H").unary("GetSession", &json!({})).await.is_ok());
    }
}
