//! The server in figures: good text, right figures, and nothing in it that somebody could make grow.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{
    Dialect, Door, Model, Server, Setup, Step, Tokens,
    model::{bash, call, text},
    until,
};

/// The samples of a text, by their names with labels. What is no good text of the format fails.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n') && !text.contains('\r'));
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|letter: char| letter.is_ascii_digit())
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
    };
    let (mut found, mut types, mut family) = (BTreeMap::new(), BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and words");
            assert!(is_name(name) && !help.is_empty(), "{line}");
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(name, family, "HELP and TYPE stand together");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "a family is in one place");
        } else {
            let (key, value) = line.rsplit_once(' ').expect("a sample and its value");
            let name = key.split('{').next().expect("a name");
            assert!(is_name(name), "{line}");
            let of_family = match types[&family].as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}")),
                kind => {
                    assert!(kind != "counter" || name.ends_with("_total"), "{line}");
                    name == family
                }
            };
            assert!(of_family, "{line} is not of {family}");
            if let Some(labels) = key.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).expect("braces");
                for label in labels.split("\",") {
                    let (label, text) = label.split_once("=\"").expect("a label");
                    assert!(is_name(label) && !text.trim_end_matches('"').contains('"'), "{line}");
                }
            }
            let value: f64 = value.parse().expect("a number");
            assert_eq!(found.insert(key.to_owned(), value), None, "{key} is there twice");
        }
    }
    found
}

async fn figures(server: &Server) -> (BTreeMap<String, f64>, String) {
    let answer = server.rest.get("/metrics").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.status, 200);
    let text = answer.text();
    (samples(&text), text)
}

#[tokio::test]
async fn figures_are_those_of_what_happened() {
    let usage = Step::Usage(Tokens { input: 70, cache_read: 30, cache_write: 0, output: 20, reasoning: 0 });
    let calls = vec![
        bash("echo hello"),
        call("view", &json!({"path": "nothing-here"})),
        call("made_up_by_a_model", &json!({})),
        usage.clone(),
    ];
    let model = Model::start(Dialect::Anthropic, [calls, vec![text("Done."), usage]]).await;
    let server = Setup::with(&model).start();
    let (begun, _) = figures(&server).await;
    assert_eq!(begun["opencode_log_head"], 0.0);
    let sent = server.rest.ask("Go.").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let stats = server.rest.read("/session/stats").await;
    server.through(Door::Grpc).get_session().await.expect("a session");
    server.through(Door::GrpcWeb).get_turn(&"turn_of_nobody".into(), 0).await.expect_err("no such turn");
    server.rest.get("/messages/msg_0123456789").await.problem(404, "not_found");
    server.rest.get("/no/such/path/of/anybody").await.problem(404, "not_found");
    server.rest.request("MADEUP", "/health").send().await.expect("an answer");

    let head = server.rest.log().await.last().expect("an event").seq();
    let rpc = r#"opencode_requests_total{door="grpc",method="POST",route="opencode.v1.OpenCodeService/GetSession",code="OK"}"#;
    // Its status comes behind its answer.
    until("the end of the call", async || figures(&server).await.0.get(rpc).map(drop)).await;
    let (found, page) = figures(&server).await;
    let request = |labels: &str| found.get(&format!("opencode_requests_total{{{labels}}}")).copied();
    for labels in [
        r#"door="rest",method="POST",route="/messages",code="200""#,
        r#"door="rest",method="GET",route="/messages/{id}",code="404""#,
        r#"door="rest",method="GET",route="other",code="404""#,
        r#"door="rest",method="other",route="/health",code="405""#,
        r#"door="grpc_web",method="POST",route="opencode.v1.OpenCodeService/GetTurn",code="NOT_FOUND""#,
    ] {
        assert_eq!(request(labels), Some(1.0), "{labels} in\n{page}");
    }
    for (name, value) in [
        (r#"opencode_turns_total{finish_reason="end_turn"}"#, 1.0),
        (r#"opencode_model_calls_total{provider="anthropic",outcome="ok"}"#, 2.0),
        (r#"opencode_tool_calls_total{tool="bash",error="false"}"#, 1.0),
        (r#"opencode_tool_calls_total{tool="view",error="true"}"#, 1.0),
        (r#"opencode_tool_calls_total{tool="other",error="true"}"#, 1.0),
        (r#"opencode_tokens_total{class="prompt"}"#, 200.0),
        (r#"opencode_tokens_total{class="completion"}"#, 40.0),
        (r#"opencode_tokens_total{class="cache_read"}"#, 60.0),
        (r#"opencode_tokens_total{class="cache_write"}"#, 0.0),
        ("opencode_cost_usd_total", stats["total_cost"].as_f64().expect("a cost")),
        ("opencode_log_head", head as f64),
        ("opencode_log_floor", 1.0),
        ("opencode_streams_open", 0.0),
        ("opencode_stream_lag_events", 0.0),
        ("opencode_permissions_waiting", 0.0),
        ("opencode_processes_running", 0.0),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name} in\n{page}");
    }
    let commits = found["opencode_store_commit_seconds_count"];
    assert!(commits > 5.0 && found["opencode_store_commit_seconds_sum"] > 0.0, "{page}");
    assert_eq!(found[r#"opencode_store_commit_seconds_bucket{le="+Inf"}"#], commits);
    assert!(found["process_resident_memory_bytes"] > 1e6, "{page}");

    // Nothing of anybody's is in it.
    let ids = ["turn_", "msg_", "call_", "session_0", "proc_", "made_up", "MADEUP", "nothing-here", "such/path"];
    for id in ids.into_iter().chain([sent["turn"]["id"].as_str().expect("an id")]) {
        assert!(!page.contains(id), "{id} in\n{page}");
    }
}

#[tokio::test]
async fn what_is_under_way_is_counted() {
    let model = Model::start(Dialect::OpenAi, [vec![bash("echo begun; sleep 1001")]]).await;
    let server = Setup::with(&model).start();
    let mut streams = Vec::new();
    for door in [Door::Rest, Door::Grpc, Door::GrpcWeb] {
        streams.push(server.through(door).stream_events(json!({"after": "0"})).await.expect("a stream"));
    }
    let mut turn = server.rest.say(&json!({"text": "Run."})).await;
    turn.until("tool_output_delta").await;
    let (found, page) = figures(&server).await;
    assert_eq!((found["opencode_streams_open"], found["opencode_processes_running"]), (4.0, 1.0), "{page}");
    assert!(found["opencode_stream_lag_events"] <= found["opencode_log_head"], "{page}");
    server.rest.post("/agent/cancel", &json!({})).await.ok();
    for stream in &mut streams {
        stream.until("turn_completed").await;
    }
    until("the readers at the head", async || {
        (figures(&server).await.0["opencode_stream_lag_events"] == 0.0).then_some(())
    })
    .await;
    drop((streams, turn));
    until("the end of the streams", async || (figures(&server).await.0["opencode_streams_open"] == 0.0).then_some(()))
        .await;
    let (found, page) = figures(&server).await;
    assert_eq!(found[r#"opencode_turns_total{finish_reason="canceled"}"#], 1.0, "{page}");
    assert_eq!(found[r#"opencode_tool_calls_total{tool="bash",error="true"}"#], 1.0, "{page}");
}
