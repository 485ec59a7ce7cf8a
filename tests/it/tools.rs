//! The loop around the tools: what the model is told of each call, in which order calls run, where a turn stops.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Event, Model, Server, Setup, Step, Value,
        model::{KEY, bash, call, refusal, text},
        names,
        wire::Said,
    },
};

in_both_dialects! {
    calls_that_only_read_run_side_by_side_and_others_in_order;
    what_a_model_calls_wrongly_is_told_to_it;
    images_are_shown_to_models_that_see;
    a_turn_stops_at_its_limit_of_model_calls;
    a_cancel_among_tool_calls_leaves_a_valid_history;
    keys_are_not_to_be_seen;
}

/// What came of the calls of one answer.
pub struct Ran {
    /// What the model was told of each.
    pub results: Vec<String>,
    /// Which of them failed.
    pub errors: Vec<bool>,
    pub events: Vec<Event>,
}

impl Ran {
    /// The one result, which is no error.
    #[track_caller]
    pub fn good(&self) -> &str {
        assert_eq!(self.errors, [false], "{:?}", self.results);
        &self.results[0]
    }

    /// The one result, which is an error.
    #[track_caller]
    pub fn bad(&self) -> &str {
        assert_eq!(self.errors, [true], "{:?}", self.results);
        &self.results[0]
    }
}

/// A server in one dialect, for what is the same in both.
pub async fn ready() -> (Model, Server) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let server = Setup::with(&model).start();
    (model, server)
}

/// Has the model call these in one answer, and answers what it was told of them.
pub async fn run(model: &Model, server: &Server, calls: Vec<Step>) -> Ran {
    let (before, count) = (model.journal().len(), calls.len());
    model.then(calls);
    model.then(vec![text("Done.")]);
    let events = server.rest.say(&json!({"text": "Go on."})).await.rest().await;
    assert_eq!(events.last().map(|event| &event.json["finish_reason"]), Some(&json!("end_turn")), "{events:?}");
    let told = model.asked(before + 1).await.conversation();
    let results = told.into_iter().filter_map(|said| if let Said::Result(text) = said { Some(text) } else { None });
    let mut results: Vec<String> = results.collect();
    let results = results.split_off(results.len() - count);
    let mut completed: Vec<&Value> = events_named(&events, "tool_call_completed").collect();
    completed.sort_by_key(|event| event["part_index"].as_u64());
    // Those who watch are told the same.
    let shown = completed.iter().filter(|event| event.get("truncated").is_none()).count();
    for (event, result) in completed.iter().zip(&results).take(shown) {
        assert_eq!(event["output"], **result);
    }
    let errors = completed.iter().map(|event| event["is_error"] == true).collect();
    Ran { results, errors, events }
}

pub fn events_named<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event.name == name).map(|event| &event.json)
}

fn broken(name: &str, input: &str) -> Step {
    Step::Call { name: name.to_owned(), input: input.to_owned() }
}

async fn calls_that_only_read_run_side_by_side_and_others_in_order(dialect: Dialect) {
    let model = Model::start(dialect, []).await;
    let server = Setup::with(&model).start();
    let calls = vec![
        call("view", &json!({"path": "README.md"})),
        call("grep", &json!({"pattern": "project"})),
        call("glob", &json!({"pattern": "*.md"})),
        call("write", &json!({"path": "one.txt", "content": "1\n"})),
        bash("cat one.txt; echo 2 > two.txt"),
        call("view", &json!({"path": "two.txt"})),
        call("ls", &json!({})),
    ];
    let ran = run(&model, &server, calls).await;
    assert_eq!(ran.errors, [false; 7], "{:?}", ran.results);
    // Who comes later sees what was done before.
    assert!(ran.results[4].starts_with("1\n") && ran.results[5].contains('2'), "{:?}", ran.results);
    assert!(ran.results[6].contains("one.txt") && ran.results[6].contains("two.txt"), "{:?}", ran.results);
    let order = ran.events.iter().filter(|event| event.name.starts_with("tool_call_"));
    let order: Vec<(char, u64)> = order
        .map(|event| {
            let kind = if event.name == "tool_call_started" { 's' } else { 'c' };
            (kind, event.json["part_index"].as_u64().expect("an index"))
        })
        .collect();
    // The next group begins when all of one have ended. Some have all begun before any of them ended; on a busy machine not
    // each has.
    let mut side_by_side = 0;
    let place = |wanted: (char, u64)| order.iter().position(|found| *found == wanted).expect("it is there");
    for group in [vec![0, 1, 2], vec![3], vec![4], vec![5, 6]] {
        let last_start = group.iter().map(|index| place(('s', *index))).max();
        let first_end = group.iter().map(|index| place(('c', *index))).min();
        let last_end = group.iter().map(|index| place(('c', *index))).max();
        side_by_side += usize::from(group.len() > 1 && last_start < first_end);
        let next = group[group.len() - 1] + 1;
        assert!(next == 7 || last_end < Some(place(('s', next))), "{group:?} {order:?}");
    }
    assert!(side_by_side > 0, "{order:?}");
    check_against_reads(&server).await;
}

async fn what_a_model_calls_wrongly_is_told_to_it(dialect: Dialect) {
    let model = Model::start(dialect, []).await;
    let server = Setup::with(&model).start();
    let wrong = [
        (call("view", &json!({})), "missing field `path`"),
        (call("view", &json!({"path": 5})), "path: invalid type: integer `5`"),
        (call("view", &json!({"path": "README.md", "lines": 3})), "unknown field `lines`"),
        (call("view", &json!({"path": "README.md", "offset": -1})), "offset: invalid value: integer `-1`"),
        (call("view", &json!({"path": ""})), "the path is empty"),
        (call("view", &json!({"path": "README.md", "limit": 0})), "limit: has to be at least 1"),
        (call("ls", &json!({"depth": 0})), "depth: has to be at least 1"),
        (call("ls", &json!({"ignore": "*.md"})), "ignore: invalid type: string"),
        (call("glob", &json!({"pattern": "a["})), "pattern: "),
        (call("grep", &json!({"pattern": "("})), "set literal to look for it as plain text"),
        (call("grep", &json!({"pattern": ""})), "pattern: is empty"),
        (call("bash", &json!({"command": " \n"})), "command: is blank"),
        (
            call("bash", &json!({"command": "true", "timeout_ms": 600_001})),
            "timeout_ms: has to be between 1 and 600000",
        ),
        (call("bash", &json!({"command": "true", "timeout_ms": 0})), "timeout_ms: has to be between 1 and 600000"),
        (call("edit", &json!({"path": "README.md", "old_string": "a", "new_string": "a"})), "are the same"),
        (
            call("teleport", &json!({"to": "the moon"})),
            "there is no tool \"teleport\"; the tools are view, write, edit,",
        ),
        (broken("view", "{\"path\": \"READ"), "the arguments of view are not a JSON object"),
        (broken("write", "[1, 2]"), "the arguments of write are not a JSON object"),
        (broken("bash", "\"ls\""), "the arguments of bash are not a JSON object"),
    ];
    let (calls, words): (Vec<Step>, Vec<&str>) = wrong.into_iter().unzip();
    let count = calls.len();
    let ran = run(&model, &server, calls).await;
    assert_eq!(ran.errors, vec![true; count], "{:?}", ran.results);
    for (result, words) in ran.results.iter().zip(words) {
        assert!(result.contains(words), "{words:?} is not in {result:?}");
    }
    if dialect == Dialect::Anthropic {
        let body = model.journal()[1].body["messages"].to_string();
        assert_eq!(body.matches("\"is_error\":true").count(), count);
    }
    // No argument at all is what some models send where none is needed.
    assert!(run(&model, &server, vec![broken("ls", "")]).await.good().contains("README.md"));
    check_against_reads(&server).await;
}

/// The smallest PNG there is.
const PNG: [u8; 70] =
    *b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\xdacd\xf8\
\xcfP\x0f\0\x03\x86\x01\x80Z4}k\0\0\0\0IEND\xaeB`\x82";

async fn images_are_shown_to_models_that_see(dialect: Dialect) {
    let model = Model::start(dialect, []).await;
    let server = Setup::with(&model).start();
    std::fs::write(server.workspace().join("pixel.png"), PNG).expect("a file");
    let calls = || vec![call("view", &json!({"path": "pixel.png"})), call("view", &json!({"path": "README.md"}))];
    let ran = run(&model, &server, calls()).await;
    assert_eq!(ran.results[0], "pixel.png is an image (image/png, 70 bytes), shown beside these words");
    assert!(ran.results[1].contains("# A project"));
    let told = model.journal()[1].conversation();
    assert_eq!(told.last(), Some(&Said::Image { mime_type: "image/png".into() }), "{told:?}");
    // Parts are only added at the end: it stands behind the results.
    let messages = server.rest.messages().await;
    let kinds: Vec<&Value> = messages[2]["parts"].as_array().expect("parts").iter().map(|part| &part["type"]).collect();
    assert_eq!(kinds, ["tool_result", "tool_result", "binary"]);
    assert_eq!(messages[2]["parts"][2]["path"], "pixel.png");

    // A gateway's model that is known to see nothing: neither the old image nor a new one is sent.
    let blind = match dialect {
        Dialect::Anthropic => "anthropic/deepseek-chat",
        Dialect::OpenAi => "openai/deepseek-chat",
    };
    let set = server.rest.send("PUT", "/agent/model", &json!({"model_id": blind})).await.ok();
    assert_eq!(set["supports_attachments"], false, "{set}");
    let ran = run(&model, &server, calls()).await;
    assert_eq!(ran.results[0], "pixel.png is an image (image/png, 70 bytes), which this model cannot be shown");
    let told = model.journal()[3].conversation();
    assert!(!told.iter().any(|said| matches!(said, Said::Image { .. })), "{told:?}");
    assert!(!model.journal()[3].body.to_string().contains("iVBORw0KGgo"));
    check_against_reads(&server).await;
}

async fn a_turn_stops_at_its_limit_of_model_calls(dialect: Dialect) {
    let again = || vec![text("Once more."), bash("echo again")];
    let model = Model::start(dialect, [again(), again()]).await;
    let server = Setup::with(&model).env("OPENCODE_TURN_MODEL_CALLS", 2).start();
    let sent = server.rest.ask("For ever.").await;
    let (turn, message) = (&sent["turn"], &sent["message"]);
    assert_eq!((&turn["status"], &turn["finish_reason"]), (&json!("completed"), &json!("budget_exhausted")));
    let error = &turn["error"];
    assert_eq!((&error["code"], &error["retryable"]), (&json!("budget_exhausted"), &json!(true)));
    let details = json!({"which": "model_calls", "scope": "turn", "limit": 2, "used": 2, "needed": 1,
        "setting": "OPENCODE_TURN_MODEL_CALLS"});
    assert_eq!(error["details"], details);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("2 model calls")), "{error}");
    let closing = message["parts"][0]["text"].as_str().expect("a closing text").to_owned();
    assert!(closing.contains("2 model calls"), "{closing}");
    assert_eq!(message["parts"][1]["reason"], "budget_exhausted");
    assert_eq!((model.journal().len(), &turn["usage"]["prompt_tokens"]), (2, &json!(200)), "the closing costs nothing");
    // The next message goes on from there.
    let ran = run(&model, &server, vec![bash("echo there")]).await;
    assert!(ran.good().contains("there"));
    let told = model.journal()[2].conversation();
    assert_eq!(told[told.len() - 2..], [Said::Model(closing), Said::User("Go on.".into())]);
    check_against_reads(&server).await;
}

async fn a_cancel_among_tool_calls_leaves_a_valid_history(dialect: Dialect) {
    let calls = vec![
        text("I look."),
        call("view", &json!({"path": "README.md"})),
        bash("echo begun; sleep 1000"),
        bash("touch never"),
        call("ls", &json!({})),
    ];
    let model = Model::start(dialect, [calls]).await;
    let server = Setup::with(&model).start();
    let mut stream = server.rest.say(&json!({"text": "Look."})).await;
    let begun = stream.until("tool_output_delta").await;
    assert_eq!(begun.last().map(|event| &event.json["text"]), Some(&json!("begun\n")));
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    assert_eq!((&canceled["canceled"], &canceled["processes_left"]), (&json!(true), &json!([])));
    let ended = stream.rest().await;
    assert_eq!(ended.last().map(|event| &event.json["finish_reason"]), Some(&json!("canceled")));
    assert!(!names(&ended).contains(&"tool_call_started"), "the rest never began");

    model.then(vec![text("As you wish.")]);
    server.rest.ask("Go on.").await;
    // The reader of it fails where a call has no result, or where it has two.
    let told = model.asked(1).await.conversation();
    let results: Vec<&str> =
        told.iter().filter_map(|said| if let Said::Result(text) = said { Some(text.as_str()) } else { None }).collect();
    let [viewed, ran, never, listed] = results.as_slice() else { panic!("not four: {results:?}") };
    assert!(viewed.contains("# A project"), "{viewed}");
    assert!(ran.contains("canceled") && ran.contains("begun"), "{ran}");
    assert_eq!((*never, *listed), ("canceled before it ran", "canceled before it ran"));
    assert_eq!(told.last(), Some(&Said::User("Go on.".into())));
    assert!(!server.workspace().join("never").exists());
    check_against_reads(&server).await;
}

async fn keys_are_not_to_be_seen(dialect: Dialect) {
    let model = Model::start(dialect, []).await;
    let setup = Setup::with(&model).env("OPENCODE_API_TOKEN", KEY).env("OPENCODE_DEBUG", true).env("HARMLESS", "seen");
    let server = setup.start();
    let calls = vec![bash("env; set; export -p; tr '\\0' '\\n' </proc/$$/environ")];
    let ran = run(&model, &server, calls).await;
    assert!(ran.good().contains("HARMLESS=seen"), "the rest of the environment is there");
    assert!(!ran.good().contains(KEY), "{}", ran.good());
    // A provider that repeats the key in its error.
    model.then(vec![refusal(401, &format!("invalid key: {KEY}"))]);
    let turn = server.rest.ask("Hello?").await["turn"].clone();
    assert_eq!(turn["finish_reason"], "error");
    assert!(!turn.to_string().contains(KEY), "{turn}");
    assert!(!server.rest.log().await.iter().any(|event| event.json.to_string().contains(KEY)));
    for path in ["/health", "/models", "/agent/status", "/turns", "/messages", "/openapi.json"] {
        assert!(!server.rest.get(path).await.text().contains(KEY), "{path}");
    }
    assert!(!server.data_holds(KEY), "it stands in a file");
    assert!(!server.log().contains(KEY), "it was logged");
}
