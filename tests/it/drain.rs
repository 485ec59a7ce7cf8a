//! The end that is asked for: every stream is told, the running turn has its time, and what is left goes on at the next
//! start.

use serde_json::json;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_prost::ProstCodec;

use crate::{
    support::{
        Client, Dialect, Door, Event, Gate, Model, Server, Setup, Step, Value,
        doors::send_wish,
        grammar,
        model::{bash, text},
        names,
        rpc::Rpc,
        soon, until,
    },
    through_every_door,
};

through_every_door! {
    a_drain_is_told_to_every_client;
    a_turn_that_does_not_end_in_time_is_interrupted;
}

fn said(words: &str) -> Value {
    json!([{"type": "text", "text": words}])
}

/// The one frame that says so, with a deadline at most so many seconds from now.
fn told(events: &[Event], seconds: i64) {
    let told: Vec<_> = events.iter().filter(|event| event.name == "server_draining").collect();
    assert_eq!(told.len(), 1, "{:?}", names(events));
    let deadline: jiff::Timestamp = told[0].json["deadline"].as_str().expect("a time").parse().expect("a time");
    let left = deadline.duration_since(jiff::Timestamp::now()).as_secs();
    assert!(left <= seconds, "{left}");
    assert!(told[0].json.get("seq").is_none() && !told[0].id.is_empty(), "a frame with its place: {:?}", told[0]);
}

/// A message is refused for now, with when to come again.
async fn takes_nothing(server: &Server, client: &Client, door: Door) {
    for wish in [json!({"parts": said("No.")}), json!({"parts": said("No."), "when_busy": "queue"})] {
        let refused = client.begin_turn(wish.clone()).await.expect_err("a refusal");
        assert_eq!((refused.code.as_str(), refused.retryable), ("unavailable", true));
        if door == Door::Rest {
            let answer = server.rest.post("/messages", &wish).await;
            assert!(
                answer.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after > 0))
            );
            answer.problem(503, "unavailable");
        } else {
            use tonic_types::StatusExt;
            let rpc = if door == Door::Grpc { Rpc::grpc(&server.rest.base) } else { Rpc::web(&server.rest.base) };
            let status = rpc.unary("SendMessage", &send_wish(&wish)).await.expect_err("a refusal");
            let again = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            assert!(again.is_some_and(|again| !again.is_zero()), "{status:?}");
        }
    }
}

async fn a_drain_is_told_to_every_client(door: Door) {
    let gate = Gate::new();
    let model = Model::start(Dialect::Anthropic, [vec![text("One "), Step::Wait(gate.clone()), text("two.")]]).await;
    let mut server = Setup::with(&model).env("OPENCODE_DRAIN_TIMEOUT", 600).start();
    let client = server.through(door);
    let mut follower = client.stream_events(json!({"after": "0"})).await.expect("a stream");
    let mut messages = client.stream_messages(json!({"after": "0"})).await.expect("a stream");
    let mut turn = client.send_message(json!({"parts": said("Count.")})).await.expect("a stream");
    turn.until("content_delta").await;
    server.terminate();
    let before = turn.until("server_draining").await;
    told(&before, 600);
    let late = client.stream_events(json!({"after": "0"})).await.expect("a stream").until("server_draining").await;
    told(&late, 600);

    // What it says of itself meanwhile, and what it refuses.
    server.rest.get("/livez").await.ok();
    let problem = server.rest.get("/readyz").await.problem(503, "unavailable");
    assert!(problem["detail"].as_str().expect("words").contains("shutting down"), "{problem}");
    let health = server.rest.get("/health").await.json_with(503);
    assert_eq!((&health["status"], &health["checks"]["server"]), (&json!("not_serving"), &json!("draining")));
    if door != Door::Rest {
        let health = client.health().await.expect("an answer").body;
        assert_eq!((&health["status"], &health["checks"]["server"]), (&json!("not_serving"), &json!("draining")));
    }
    takes_nothing(&server, &client, door).await;
    assert_eq!(client.get_agent_status().await.expect("a status").body["status"], "processing");

    // The turn ends by itself, whose client sees that; then the streams end, with their place.
    gate.open();
    let ending = turn.rest().await;
    let last = ending.last().expect("an event");
    assert_eq!((last.name.as_str(), &last.json["finish_reason"]), ("turn_completed", &json!("end_turn")));
    let (followed, place) = follower.until_closed().await;
    told(&followed, 600);
    assert_eq!(followed.last().map(|event| &event.id), Some(&place));
    assert_eq!(followed.last().map(|event| &event.name), Some(&last.name));
    let (followed, elsewhere) = messages.until_closed().await;
    told(&followed, 600);
    assert_eq!(elsewhere, place, "what was filtered out was considered too");
    assert_eq!(soon("the end of the server", server.ended()).await.code(), Some(0));
    assert!(!server.log().contains("panicked"), "{}", server.log());

    // Whoever comes back there misses nothing.
    model.then(vec![text("Three.")]);
    server = server.setup().start();
    let mut again = server.through(door).stream_events(json!({"after": place})).await.expect("a stream");
    assert_eq!(server.rest.ask("Go on.").await["turn"]["finish_reason"], "end_turn");
    let rest = again.until("turn_completed").await;
    assert_eq!(rest[0].name, "message_created");
    grammar::check(&server.rest.log().await);
}

async fn a_turn_that_does_not_end_in_time_is_interrupted(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![bash("echo begun; sleep 1001"), bash("echo never")]]).await;
    let mut server = Setup::with(&model).env("OPENCODE_DRAIN_TIMEOUT", 1).start();
    let client = server.through(door);
    let mut turn = client.send_message(json!({"parts": said("Run.")})).await.expect("a stream");
    turn.until("tool_output_delta").await;
    let queued = client.begin_turn(json!({"parts": said("Then."), "when_busy": "queue"})).await.expect("a turn").body;
    server.terminate();
    let ending = turn.rest().await;
    told(&ending, 1);
    // Its published name in the stream of a call is another one.
    let failed = ending.iter().find(|event| ["turn_failed", "error"].contains(&event.name.as_str()));
    let failed = failed.expect("why it ended");
    assert_eq!(failed.json["code"], "interrupted");
    let completed = ending.iter().filter(|event| event.name == "tool_call_completed").count();
    assert_eq!(completed, 1, "what had begun is closed: {:?}", names(&ending));
    assert_eq!(ending.last().expect("an end").json["finish_reason"], "error");
    assert_eq!(soon("the end of the server", server.ended()).await.code(), Some(0));

    // What waited is the next start's, and its model is told a whole history.
    model.then(vec![text("Well.")]);
    model.then(vec![text("And well.")]);
    server = server.setup().start();
    assert!(!server.log().contains("closed a turn"), "it was ended in time: {}", server.log());
    assert_eq!(server.rest.ended_turn(&queued["id"]).await["finish_reason"], "end_turn");
    assert_eq!(server.rest.ask("Again.").await["turn"]["finish_reason"], "end_turn");
    let messages = server.rest.messages().await;
    let results = messages[2]["parts"].as_array().expect("parts");
    assert!(results.len() == 2 && results.iter().all(|result| result["is_error"] == true), "{results:?}");
    grammar::check(&server.rest.log().await);
}

/// Who watches the standard health service is told before the end.
#[tokio::test]
async fn the_health_service_says_so() {
    let model = Model::start(Dialect::OpenAi, [vec![text("I am "), Step::Stall]]).await;
    let mut server = Setup::with(&model).env("OPENCODE_DRAIN_TIMEOUT", 1).start();
    let mut turn = server.rest.say(&json!({"text": "Go."})).await;
    turn.until_said("am ").await;
    let base: Endpoint = server.rest.base.parse().expect("an address");
    let mut client = Grpc::new(base.connect().await.expect("the gRPC door is open"));
    client.ready().await.expect("the gRPC door is open");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
    let wish = Request::new(HealthCheckRequest { service: "opencode.v1.OpenCodeService".into() });
    let mut watched =
        soon("an answer", client.server_streaming(wish, path, codec)).await.expect("a stream").into_inner();
    let mut next = async || soon("a status", watched.message()).await.map(|found| found.map(|found| found.status()));
    assert_eq!(next().await.expect("a status"), Some(ServingStatus::Serving));
    server.terminate();
    assert_eq!(next().await.expect("a status"), Some(ServingStatus::NotServing));
    client.ready().await.expect("the gRPC door is open");
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let checked = client.unary(Request::new(HealthCheckRequest::default()), path, codec).await;
    assert_eq!(checked.expect("an answer").into_inner().status(), ServingStatus::NotServing);
    match next().await {
        Ok(status) => assert_eq!(status, None),
        Err(status) => assert_eq!(status.code(), Code::Unavailable),
    }
    soon("the end of the server", server.ended()).await;
}

/// Also through the first process of a container, which passes it on.
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let model = Model::start(Dialect::Anthropic, []).await;
    for (is_first, code) in [(false, 143), (true, 143)] {
        let setup = Setup::with(&model).env("OPENCODE_DRAIN_TIMEOUT", 600);
        let mut server = if is_first { setup.as_first_process() } else { setup }.start();
        model.then(vec![text("I am "), Step::Stall]);
        let mut turn = server.rest.say(&json!({"text": "Go."})).await;
        turn.until_said("am ").await;
        server.ask_to_stop();
        turn.until("server_draining").await;
        server.ask_to_stop();
        let status = soon("the end of the server", server.ended()).await;
        assert_eq!(status.code(), Some(code), "first process: {is_first}");
        model.left(1 + usize::from(is_first)).await;
        // As after a crash.
        server = server.setup().start();
        until("the end of the turn", async || {
            let turns = server.rest.read("/turns").await;
            (turns["turns"][0]["error"]["code"] == "interrupted").then_some(())
        })
        .await;
    }
}

/// Nothing runs and nobody but streams is there: nothing is waited for, whatever the setting.
#[tokio::test]
async fn an_idle_server_ends_quickly() {
    let mut took = Vec::new();
    for _ in 0..5 {
        let mut server = Setup::new().env("OPENCODE_DRAIN_TIMEOUT", 600).start();
        let client = server.through(Door::Grpc);
        client.get_session().await.expect("a session");
        let mut streams = Vec::new();
        for door in [Door::Rest, Door::Grpc, Door::GrpcWeb] {
            let mut stream = server.through(door).stream_events(json!({"after": "0"})).await.expect("a stream");
            stream.until("session_created").await;
            streams.push(stream);
        }
        let began = std::time::Instant::now();
        server.terminate();
        assert_eq!(server.ended().await.code(), Some(0));
        took.push(began.elapsed());
        for mut stream in streams {
            told(&stream.until_closed().await.0, 600);
        }
    }
    took.sort_unstable();
    println!("SIGTERM to exit: {took:?}");
    // The figure is 200 ms; here others build meanwhile.
    assert!(took[0].as_millis() < 200, "{took:?}");
}
