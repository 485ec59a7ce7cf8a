//! Providers on good and bad days, in both dialects.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Ending, Event, Model, Server, Setup, Step, Tokens, Value,
        model::{KEY, bash, call, refusal, text},
        names,
        wire::Said,
    },
};

in_both_dialects! {
    what_the_model_is_asked;
    reasoning_is_kept_and_sent_back_with_its_signature;
    several_calls_in_one_answer;
    usage_is_counted_by_class_at_its_price;
    overload_is_waited_out;
    a_cut_answer_is_asked_for_again;
    garbage_is_asked_for_again;
    silence_is_a_stall;
    an_error_with_status_200;
    a_refused_key_is_not_tried_again;
    a_provider_that_is_down;
    limits_and_refusals_end_the_turn;
    an_answer_that_we_cut_costs_what_nobody_knows;
    an_answer_without_a_word;
    the_key_is_seen_nowhere;
}

/// Asks, and answers the turn and its events. The log has to keep the grammar.
async fn ask(server: &Server, words: &str) -> (Value, Vec<Event>) {
    let events = server.rest.say(&json!({ "text": words })).await.rest().await;
    let turn = server.rest.ended_turn(events[0].turn_id()).await;
    check_against_reads(server).await;
    (turn, events)
}

fn all<'a>(events: &'a [Event], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event.name == name).map(|event| &event.json).collect()
}

async fn what_the_model_is_asked(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("Yes.")]]).await;
    let setup = Setup::with(&model);
    std::fs::write(setup.workspace().join("AGENTS.md"), "Always answer in rhymes.").expect("a file");
    let server = setup.start();
    ask(&server, "Is it so?").await;
    let asked = model.asked(0).await;
    let key = match dialect {
        Dialect::Anthropic => asked.headers["x-api-key"].clone(),
        Dialect::OpenAi => asked.headers["authorization"].replace("Bearer ", ""),
    };
    assert_eq!(key, KEY);
    assert_eq!(asked.tools(), ["view", "write", "edit", "ls", "glob", "grep", "bash", "job"]);
    assert!(asked.system().contains("Always answer in rhymes."), "context files are told");
    assert!(asked.system().contains(server.workspace().to_str().expect("UTF-8")), "where it works");
    assert_eq!(asked.body["stream"], true);
    assert_eq!(asked.conversation(), [Said::User("Is it so?".into())]);
    match dialect {
        Dialect::Anthropic => assert_eq!(asked.headers["anthropic-version"], "2023-06-01"),
        Dialect::OpenAi => assert_eq!(asked.body["stream_options"]["include_usage"], true),
    }
}

async fn reasoning_is_kept_and_sent_back_with_its_signature(dialect: Dialect) {
    let thought = Step::Reasoning { text: "I should look first.".into(), signature: "c2lnbmVk" };
    let model = Model::start(dialect, [vec![thought, call("ls", &json!({}))], vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let (_, events) = ask(&server, "Look.").await;
    let words: String = all(&events, "reasoning_delta").iter().filter_map(|delta| delta["text"].as_str()).collect();
    assert_eq!(words, "I should look first.");
    let thoughts: Vec<Said> = model.asked(1).await.conversation();
    let expected = Said::Thought { text: "I should look first.".into(), signature: "c2lnbmVk".into() };
    assert_eq!(thoughts.contains(&expected), dialect == Dialect::Anthropic, "where the dialect wants it");
    let seen = json!(server.rest.log().await.iter().map(|event| event.json.clone()).collect::<Vec<_>>()).to_string();
    assert!(!seen.contains("c2lnbmVk"), "the signature is nobody's business");
}

async fn several_calls_in_one_answer(dialect: Dialect) {
    let calls = vec![
        call("view", &json!({"path": "README.md"})),
        call("glob", &json!({"pattern": "*.md"})),
        bash("echo 'a \"quoted\" word'"),
    ];
    let model = Model::start(dialect, [calls, vec![text("Done.")]]).await;
    let server = Setup::with(&model).start();
    let (turn, _) = ask(&server, "Look.").await;
    assert_eq!(turn["finish_reason"], "end_turn");
    let told = model.asked(1).await.conversation();
    let [_, a, b, c, x, y, z] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(a, &Said::Call { name: "view".into(), input: json!({"path": "README.md"}) });
    assert_eq!(b, &Said::Call { name: "glob".into(), input: json!({"pattern": "*.md"}) });
    assert_eq!(c, &Said::Call { name: "bash".into(), input: json!({"command": "echo 'a \"quoted\" word'"}) });
    for (result, words) in [(x, "# A project"), (y, "README.md"), (z, "a \"quoted\" word")] {
        assert!(matches!(result, Said::Result(content) if content.contains(words)), "{result:?}");
    }
}

async fn usage_is_counted_by_class_at_its_price(dialect: Dialect) {
    let used = Tokens { input: 1000, cache_read: 300, cache_write: 0, output: 200, reasoning: 50 };
    let model = Model::start(dialect, [vec![Step::Usage(used), text("Yes.")]]).await;
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Is it so?").await;
    // Per million: 4, 0.2 cached and 20 dollars; 1.75, 0.175 cached and 14.
    let cost = match dialect {
        Dialect::Anthropic => "0.00806",
        Dialect::OpenAi => "0.0046025",
    };
    let usage = json!({
        "prompt_tokens": 1300,
        "completion_tokens": 200,
        "cache_read_tokens": 300,
        "cache_write_tokens": 0,
        "reasoning_tokens": 50,
        "cost": cost.parse::<f64>().expect("a number"),
        "cost_usd": cost,
        "cost_complete": true,
    });
    assert_eq!(turn["usage"], usage);
    assert_eq!(all(&events, "message_completed")[0]["usage"], usage);
    assert_eq!(server.rest.messages().await[1]["usage"], usage);
    assert_eq!(server.rest.read("/session/stats").await["usage"], usage);
    let ledger = rusqlite::Connection::open(server.setup().data_dir().join("log.sqlite3")).expect("the log");
    let rows: i64 = ledger.query_row("SELECT COUNT(*) FROM ledger", [], |row| row.get(0)).expect("a count");
    assert_eq!(rows, 1);
}

fn overloaded(status: u16, after: &str) -> Vec<Step> {
    let headers = vec![("retry-after", after.to_owned())];
    let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    vec![Step::Http { status, headers, body }]
}

async fn overload_is_waited_out(dialect: Dialect) {
    let answers = [overloaded(529, "0"), overloaded(429, "0"), overloaded(503, "1"), vec![text("Now.")]];
    let model = Model::start(dialect, answers).await;
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Go.").await;
    assert_eq!(turn["finish_reason"], "end_turn");
    let retries = all(&events, "model_retry");
    let figures: Vec<_> = retries.iter().map(|retry| (&retry["attempt"], &retry["of"], &retry["delay_ms"])).collect();
    let (of, now) = (json!(8), json!(0));
    assert_eq!(figures, [(&json!(1), &of, &now), (&json!(2), &of, &now), (&json!(3), &of, &json!(1000))]);
    assert!(retries.iter().all(|retry| retry["code"] == "provider_unavailable"));
    assert_eq!(server.rest.messages().await.len(), 2, "a call that gave nothing leaves no message");
    assert_eq!(turn["usage"]["cost_complete"], true, "what was refused cost nothing");
}

async fn a_cut_answer_is_asked_for_again(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("It was a dark "), Step::Cut], vec![text("Once upon a time.")]]).await;
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Tell.").await;
    assert_eq!((&turn["finish_reason"], turn.get("error")), (&json!("end_turn"), None));
    let reasons: Vec<_> = all(&events, "message_completed").iter().map(|it| it["finish_reason"].clone()).collect();
    assert_eq!(reasons, ["error", "end_turn"]);
    let messages = server.rest.messages().await;
    assert_eq!(messages.len(), 3, "a new message, not more of the old one");
    assert_eq!(messages[1]["parts"][0]["text"], "It was a dark ", "what was shown stays");
    assert_eq!(messages[2]["parts"][0]["text"], "Once upon a time.");
    assert_eq!(turn["message_id"], messages[2]["id"]);
    assert_eq!(turn["usage"]["cost_complete"], false, "nobody told what the first one cost");
    assert_eq!(model.asked(1).await.conversation(), [Said::User("Tell.".into())], "it is left out of the prompt");
}

async fn garbage_is_asked_for_again(dialect: Dialect) {
    let model =
        Model::start(dialect, [vec![text("One "), Step::Garbage], vec![Step::Garbage], vec![text("Two.")]]).await;
    // The second wait is the server's own choice, up to two seconds.
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Count.").await;
    assert_eq!(turn["finish_reason"], "end_turn");
    assert_eq!(all(&events, "model_retry").len(), 2);
    assert_eq!(server.rest.messages().await.len(), 3);
}

async fn silence_is_a_stall(dialect: Dialect) {
    let model = Model::start(dialect, [vec![Step::Stall], vec![text("Hm "), Step::Stall], vec![text("Yes.")]]).await;
    let setup = Setup::with(&model).env("OPENCODE_FIRST_TOKEN_SECONDS", 1).env("OPENCODE_BETWEEN_TOKENS_SECONDS", 1);
    let server = setup.start();
    let (turn, events) = ask(&server, "Is it so?").await;
    assert_eq!(turn["finish_reason"], "end_turn");
    let codes: Vec<_> = all(&events, "model_retry").iter().map(|retry| retry["code"].clone()).collect();
    assert_eq!(codes, ["provider_timeout", "provider_timeout"]);
    model.left(2).await;
}

async fn an_error_with_status_200(dialect: Dialect) {
    let told = |name: &str, words: &str| {
        let body = json!({"type": "error", "error": {"type": name, "message": words}});
        vec![Step::Http { status: 200, headers: vec![("retry-after", "0".into())], body }]
    };
    let answers = [told("overloaded_error", "Later."), told("invalid_request_error", "Too long.")];
    let model = Model::start(dialect, answers).await;
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Go.").await;
    assert_eq!(all(&events, "model_retry").len(), 1);
    assert_eq!((&turn["finish_reason"], &turn["error"]["code"]), (&json!("error"), &json!("provider_error")));
    assert!(turn["error"]["message"].as_str().is_some_and(|words| words.contains("Too long.")), "{turn}");
}

async fn a_refused_key_is_not_tried_again(dialect: Dialect) {
    let model = Model::start(dialect, [vec![refusal(401, &format!("the key {KEY} is not known"))]]).await;
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Go.").await;
    assert_eq!(names(&events)[3..], ["turn_failed", "agent_status_changed", "turn_completed"]);
    let error = &turn["error"];
    assert_eq!((&error["code"], &error["retryable"]), (&json!("provider_error"), &json!(false)));
    assert_eq!(error["details"], json!({"attempts": 1, "provider_status": 401}));
    assert!(error["message"].as_str().is_some_and(|words| words.contains("401") && words.contains("***")), "{error}");
    assert_eq!(model.journal().len(), 1);
    assert_eq!(turn.get("message_id"), None);
}

async fn a_provider_that_is_down(dialect: Dialect) {
    let model = Model::start(dialect, []).await;
    // A port that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let name = if dialect == Dialect::Anthropic { "ANTHROPIC_BASE_URL" } else { "OPENAI_BASE_URL" };
    let server = Setup::with(&model).env(name, format!("http://127.0.0.1:{port}/v1")).start();
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let retry = stream.until("model_retry").await.pop().expect("an event").json;
    assert_eq!((&retry["attempt"], &retry["code"]), (&json!(1), &json!("provider_unavailable")));
    let delay = retry["delay_ms"].as_u64().expect("a number");
    assert!((750..=1000).contains(&delay), "a second with jitter: {delay}");
    assert_eq!(server.rest.post("/agent/cancel", &json!({})).await.ok()["canceled"], true);
    assert_eq!(stream.rest().await.last().expect("an event").json["finish_reason"], "canceled");
    check_against_reads(&server).await;
}

async fn limits_and_refusals_end_the_turn(dialect: Dialect) {
    let cut = vec![text("And then "), Step::Finish(Ending::MaxTokens)];
    let refused = vec![text("No."), Step::Finish(Ending::Refused)];
    let cut_call = vec![
        Step::Call { name: "bash".into(), input: "{\"command\": \"touch no".into() },
        Step::Finish(Ending::MaxTokens),
    ];
    let model = Model::start(dialect, [cut, refused, cut_call, vec![text("Well.")]]).await;
    let server = Setup::with(&model).start();
    let (turn, _) = ask(&server, "Tell.").await;
    assert_eq!((&turn["finish_reason"], &turn["error"]["code"]), (&json!("max_tokens"), &json!("max_tokens")));
    assert_eq!(turn["error"]["retryable"], true);
    let (turn, _) = ask(&server, "Tell.").await;
    assert_eq!((&turn["finish_reason"], turn.get("error")), (&json!("refused"), None));
    // A call that was cut off is never run, and has its result all the same.
    let (turn, events) = ask(&server, "Run.").await;
    assert_eq!((&turn["finish_reason"], all(&events, "tool_call_started").len()), (&json!("max_tokens"), 0));
    let (turn, _) = ask(&server, "Again.").await;
    assert_eq!(turn["finish_reason"], "end_turn");
    let told = model.asked(3).await.conversation();
    assert_eq!(told.iter().filter(|said| matches!(said, Said::Result(_))).count(), 1);
}

/// What the provider says of its cost at the end is not heard where we cut its answer.
async fn an_answer_that_we_cut_costs_what_nobody_knows(dialect: Dialect) {
    let calls = vec![call("view", &json!({"path": "README.md"})); 130];
    let model = Model::start(dialect, [calls, vec![text("Well.")]]).await;
    let server = Setup::with(&model).start();
    let (turn, _) = ask(&server, "Look.").await;
    assert_eq!((&turn["finish_reason"], &turn["usage"]["cost_complete"]), (&json!("max_tokens"), &json!(false)));
    let (turn, _) = ask(&server, "Again.").await;
    assert_eq!((&turn["finish_reason"], &turn["usage"]["cost_complete"]), (&json!("end_turn"), &json!(true)));
}

async fn an_answer_without_a_word(dialect: Dialect) {
    let model = Model::start(dialect, [vec![], vec![text("Yes.")]]).await;
    let server = Setup::with(&model).start();
    let (turn, events) = ask(&server, "Go.").await;
    assert_eq!((&turn["finish_reason"], turn.get("message_id")), (&json!("end_turn"), None));
    assert_eq!(all(&events, "message_completed").len(), 0);
    assert_eq!(turn["usage"]["prompt_tokens"], 100, "it cost all the same");
    let (turn, _) = ask(&server, "Again.").await;
    assert_eq!(turn["finish_reason"], "end_turn");
}

async fn the_key_is_seen_nowhere(dialect: Dialect) {
    let answers = [
        vec![bash("env; cat /proc/self/environ | tr '\\0' '\\n'")],
        vec![text("Done.")],
        vec![refusal(403, &format!("{KEY} may not"))],
    ];
    let model = Model::start(dialect, answers).await;
    let server = Setup::with(&model).env("OPENCODE_DEBUG", true).env("GROQ_API_KEY", KEY).start();
    let (_, events) = ask(&server, "Show the environment.").await;
    let output = all(&events, "tool_call_completed")[0]["output"].as_str().expect("text").to_owned();
    assert!(output.contains("PATH="), "the environment is there: {output}");
    ask(&server, "Again.").await;
    for name in ["API_KEY", KEY] {
        assert!(!output.contains(name), "{name} is in a tool's environment");
    }
    let log: Vec<Value> = server.rest.log().await.into_iter().map(|event| event.json).collect();
    assert!(!json!(log).to_string().contains(KEY), "in an event");
    assert!(!server.log().contains(KEY), "in the server's log");
    assert!(!server.data_holds(KEY), "in the data directory");
    assert!(!server.rest.get("/models").await.text().contains(KEY), "in an answer");
}
