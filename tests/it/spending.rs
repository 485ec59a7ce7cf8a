//! What a turn and a session may spend: each limit ends the turn with its figures, a closing text, and a valid history.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    ledger_sums::reconcile,
    support::{
        Dialect, Door, Model, Server, Setup, Step, Tokens, Value,
        doors::Client,
        model::{bash, call, text},
        wire::Said,
    },
    through_every_door,
};

through_every_door! {
    each_limit_of_a_message_ends_its_turn;
    each_limit_of_the_session_ends_the_turn;
    what_a_message_may_not_ask_for;
    money_needs_a_price;
}

in_both_dialects! {
    time_ends_what_runs;
    a_summary_and_a_title_are_counted;
    what_is_not_known_counts_at_its_worst;
    a_shorter_answer_is_asked_for_before_none;
}

/// The provider counts so many tokens.
fn counted(input: u64, output: u64) -> Step {
    Step::Usage(Tokens { input, output, ..Tokens::default() })
}

fn said(words: &str) -> Value {
    json!([{"type": "text", "text": words}])
}

/// Sends a message, whose turn has to end at a limit with a closing text. Answers the turn's error.
async fn exhausted(client: &Client, server: &Server, budget: Value) -> Value {
    let mut wish = json!({"parts": said("Go.")});
    if !budget.is_null() {
        wish["budget"] = budget;
    }
    let turn = client.begin_turn(wish).await.expect("a turn").body;
    server.rest.ended_turn(&turn["id"]).await;
    let turn = client.get_turn(&turn["id"], 0).await.expect("a turn").body;
    assert_eq!(turn["finish_reason"], "budget_exhausted", "{turn}");
    let error = turn["error"].clone();
    assert_eq!(error["code"], "budget_exhausted");
    let closing = client.get_message(&turn["message_id"]).await.expect("a message").body;
    let words = closing["parts"][0]["text"].as_str().expect("a closing text");
    assert!(words.starts_with("I stopped here: "), "{words}");
    assert_eq!((&closing["parts"][1]["reason"], &closing["usage"]), (&json!("budget_exhausted"), &Value::Null));
    let setting = error["details"]["setting"].as_str().expect("a setting");
    let way = error["details"]["field"].as_str().unwrap_or(setting);
    for text in [words, error["message"].as_str().expect("words")] {
        assert!(text.contains(way), "it says what raises it: {text}");
    }
    check_against_reads(server).await;
    error
}

/// The next message goes on from there, with all that was said.
async fn goes_on(model: &Model, server: &Server) {
    model.forget_the_rest();
    model.then(vec![text("Well.")]);
    let asked = model.journal().len();
    let sent = server.rest.ask("And now?").await;
    assert_eq!((&sent["turn"]["finish_reason"], &sent["turn"]["error"]), (&json!("end_turn"), &Value::Null));
    let told = model.asked(asked).await.conversation();
    let [.., Said::Model(closing), Said::User(question)] = told.as_slice() else { panic!("{told:?}") };
    assert!(closing.contains("I stopped here: ") && question == "And now?", "{told:?}");
}

async fn each_limit_of_a_message_ends_its_turn(door: Door) {
    let model = Model::start(Dialect::Anthropic, []).await;
    let server = Setup::with(&model).start();
    let client = server.through(door);

    model.then(vec![call("ls", &json!({}))]);
    let error = exhausted(&client, &server, json!({"model_calls": 1})).await;
    let details = json!({"which": "model_calls", "scope": "turn", "limit": 1, "used": 1, "needed": 1,
        "setting": "OPENCODE_TURN_MODEL_CALLS", "field": "budget.model_calls"});
    assert_eq!((&error["details"], &error["retryable"]), (&details, &json!(true)));
    goes_on(&model, &server).await;

    model.then(vec![bash("sleep 60")]);
    let error = exhausted(&client, &server, json!({"seconds": 1})).await;
    let details = json!({"which": "seconds", "scope": "turn", "limit": 1, "used": 1,
        "setting": "OPENCODE_TURN_SECONDS", "field": "budget.seconds"});
    assert_eq!(error["details"], details);
    goes_on(&model, &server).await;

    model.then(vec![counted(25_000, 1000), call("ls", &json!({}))]);
    let error = exhausted(&client, &server, json!({"tokens": 30_000})).await;
    let needed = error["details"]["needed"].as_u64().expect("a number");
    assert!((27_000..29_000).contains(&needed), "what was counted, a result, and the least answer: {needed}");
    let details = json!({"which": "tokens", "scope": "turn", "limit": 30_000, "used": 26_000, "needed": needed,
        "setting": "OPENCODE_TURN_TOKENS", "field": "budget.tokens"});
    assert_eq!(error["details"], details);
    goes_on(&model, &server).await;

    // 4 dollars a million in, 20 out; what it writes to the cache is 5.
    model.then(vec![counted(40_000, 1000), call("ls", &json!({}))]);
    let error = exhausted(&client, &server, json!({"usd": "0.250"})).await;
    let needed = error["details"]["needed"].as_str().expect("a decimal").to_owned();
    let figure: f64 = needed.parse().expect("a decimal");
    assert!((0.22..0.24).contains(&figure), "{needed}");
    let details = json!({"which": "usd", "scope": "turn", "limit": "0.25", "used": "0.18", "needed": needed,
        "setting": "OPENCODE_TURN_USD", "field": "budget.usd"});
    assert_eq!(error["details"], details);
    goes_on(&model, &server).await;
    reconcile(&client).await;
}

async fn each_limit_of_the_session_ends_the_turn(door: Door) {
    for (variable, which, limit, raised) in [
        ("OPENCODE_SESSION_MODEL_CALLS", "model_calls", "1", "2"),
        ("OPENCODE_SESSION_SECONDS", "seconds", "1", "60"),
        ("OPENCODE_SESSION_TOKENS", "tokens", "40000", "100000"),
        ("OPENCODE_SESSION_USD", "usd", "0.15", "1.00"),
    ] {
        let model = Model::start(Dialect::Anthropic, []).await;
        let setup = Setup::with(&model);
        let mut server = setup.env(variable, limit).start();
        let client = server.through(door);
        // The first turn uses most of it; that of time ends in the middle of it.
        model.then(vec![if which == "seconds" { Step::Stall } else { counted(20_000, 10) }, text("Yes.")]);
        let first = client.begin_turn(json!({"parts": said("Go.")})).await.expect("a turn").body;
        let first = server.rest.ended_turn(&first["id"]).await;
        let reason = if which == "seconds" { "budget_exhausted" } else { "end_turn" };
        assert_eq!(first["finish_reason"], reason, "{first}");

        let error = exhausted(&client, &server, Value::Null).await;
        let details = &error["details"];
        assert_eq!((&details["which"], &details["scope"]), (&json!(which), &json!("session")));
        assert_eq!((&details["setting"], details.get("field")), (&json!(variable), None));
        assert_eq!(error["retryable"], false, "another message would end alike");
        assert_eq!(model.journal().len(), 1, "nothing was asked");

        server.terminate();
        server.ended().await;
        server = setup.env(variable, raised).start();
        goes_on(&model, &server).await;
        // And a new session begins at nothing.
        server.terminate();
        server.ended().await;
        server = setup.env(variable, limit).start();
        let client = server.through(door);
        client.reset_session(json!({})).await.expect("a session");
        model.then(vec![counted(100, 10), text("Yes.")]);
        assert_eq!(server.rest.ask("Go.").await["turn"]["finish_reason"], "end_turn");
    }
}

async fn what_a_message_may_not_ask_for(door: Door) {
    let model = Model::start(Dialect::OpenAi, []).await;
    let setup = Setup::with(&model).env("OPENCODE_TURN_TOKENS", 5000).env("OPENCODE_TURN_USD", "0.5");
    let server = setup.start();
    let client = server.through(door);
    for (budget, field, words) in [
        (json!({"model_calls": 101}), "budget.model_calls", "OPENCODE_TURN_MODEL_CALLS"),
        (json!({"seconds": 1801}), "budget.seconds", "OPENCODE_TURN_SECONDS"),
        (json!({"tokens": 5001}), "budget.tokens", "OPENCODE_TURN_TOKENS"),
        (json!({"usd": "0.500000000001"}), "budget.usd", "OPENCODE_TURN_USD"),
        (json!({"model_calls": 0}), "budget.model_calls", "at least 1"),
        (json!({"seconds": -1}), "budget.seconds", "at least 1"),
        (json!({"tokens": i64::MIN}), "budget.tokens", "at least 1"),
        (json!({"usd": "-0.1"}), "budget.usd", "no amount"),
        (json!({"usd": "a lot"}), "budget.usd", "no amount"),
    ] {
        let wish = json!({"parts": said("Go."), "budget": budget});
        let refused = client.begin_turn(wish).await.expect_err("a refusal");
        assert_eq!((refused.code.as_str(), &refused.fields), ("invalid_argument", &vec![field.to_owned()]));
        assert!(refused.detail.contains(words), "{refused:?}");
    }
    assert_eq!(server.rest.messages().await, [Value::Null; 0]);
    assert!(model.journal().is_empty());
}

async fn money_needs_a_price(door: Door) {
    let model = Model::start(Dialect::OpenAi, [vec![text("Yes.")]]).await;
    let setup = Setup::with(&model);
    let server = setup.start();
    let client = server.through(door);
    let wish = |budget: Value| json!({"parts": said("Go."), "model": "openai/of-their-own", "budget": budget});
    let refused = client.begin_turn(wish(json!({"usd": "1"}))).await.expect_err("a refusal");
    assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["budget.usd".to_owned()]));
    assert!(refused.detail.contains("openai/of-their-own"), "{}", refused.detail);
    // What costs nothing is free to use.
    let demo = json!({"parts": said("Go."), "model": "mock/demo", "budget": {"usd": "0"}});
    let turn = client.begin_turn(demo).await.expect("a turn").body;
    assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
    let turn = client.begin_turn(wish(json!({"tokens": 100_000}))).await.expect("a turn").body;
    assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
    drop(server);
    let server = setup.env("OPENCODE_SESSION_USD", 1).start();
    let client = server.through(door);
    let refused = client.begin_turn(wish(json!({}))).await.expect_err("a refusal");
    assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["model".to_owned()]));
    assert!(refused.detail.contains("OPENCODE_SESSION_USD"), "{}", refused.detail);
}

async fn time_ends_what_runs(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("I am thinking"), Step::Stall]]).await;
    let server = Setup::with(&model).env("OPENCODE_TURN_SECONDS", 1).start();
    let client = server.through(Door::Rest);
    let began = Instant::now();
    let error = exhausted(&client, &server, Value::Null).await;
    assert_eq!(
        (&error["details"]["which"], &error["details"]["setting"]),
        (&json!("seconds"), &json!("OPENCODE_TURN_SECONDS"))
    );
    assert!(began.elapsed() >= Duration::from_secs(1));
    model.left(1).await;
    let messages = server.rest.messages().await;
    assert_eq!(messages[1]["parts"][1]["reason"], "budget_exhausted", "why it was cut");
    assert_eq!(client.get_session_stats().await.expect("counts").body["usage"]["cost_complete"], false);
    // What was cut and what closed it are one answer to the model.
    model.then(vec![text("Well.")]);
    server.rest.ask("And now?").await;
    let told = model.asked(1).await.conversation();
    let words: Vec<_> = told.iter().filter(|said| matches!(said, Said::Model(_))).collect();
    assert!(!words.is_empty() && format!("{words:?}").contains("I am thinking"), "{told:?}");

    // A tool that runs is ended, what comes after it does not run, and a job goes on.
    let job = call("bash", &json!({"command": "sleep 55", "background": true}));
    model.then(vec![job, bash("echo before; sleep 60"), bash("touch never")]);
    exhausted(&client, &server, Value::Null).await;
    let results = server.rest.messages().await;
    let results = results.iter().rfind(|message| message["role"] == "tool").expect("results")["parts"].clone();
    assert!(results[1]["content"].as_str().is_some_and(|text| text.contains("before")), "{results}");
    assert_eq!((&results[1]["is_error"], &results[2]["is_error"]), (&json!(true), &json!(true)));
    assert!(!server.workspace().join("never").exists());
    let running = server.rest.read("/agent/processes").await["processes"].clone();
    assert_eq!((running.as_array().map(Vec::len), &running[0]["kind"]), (Some(1), &json!("job")));
    goes_on(&model, &server).await;
}

async fn a_summary_and_a_title_are_counted(dialect: Dialect) {
    let (other, name) = match dialect {
        Dialect::Anthropic => (Dialect::OpenAi, "openai/gpt-5-nano"),
        Dialect::OpenAi => (Dialect::Anthropic, "anthropic/claude-haiku-5-5"),
    };
    let model = Model::start(dialect, [vec![counted(19_000, 10), text("Hello.")]]).await;
    let small = Model::start(other, [vec![text("A title")]]).await;
    let setup = small.settings().into_iter().fold(Setup::with(&model), |setup, (key, value)| setup.env(key, value));
    let (provider, id) = model.id().split_once('/').expect("a provider");
    let models = json!([{"provider": provider, "id": id, "context_window": 20_000, "max_output_tokens": 2_500,
        "input_per_1m": 1.0, "output_per_1m": 1.0, "tools": true}]);
    std::fs::write(setup.folder("models.json"), models.to_string()).expect("a file");
    let setup = setup.env("OPENCODE_MODELS_FILE", setup.folder("models.json").display());
    let server = setup.env("OPENCODE_MODEL", model.id()).env("OPENCODE_TITLE_MODEL", name).start();
    let client = server.through(Door::Rest);
    let send = async |calls: u64| {
        let wish = json!({"text": "Go on, please.", "budget": {"model_calls": calls}});
        let turn = client.begin_turn(wish).await.expect("a turn").body;
        server.rest.ended_turn(&turn["id"]).await
    };
    // One is for the answer: there is none for a title.
    assert_eq!(send(1).await["finish_reason"], "end_turn");
    assert!(small.journal().is_empty());
    // A summary alone is of no use.
    let turn = send(1).await;
    let details = &turn["error"]["details"];
    assert_eq!(
        (&details["which"], &details["used"], &details["needed"]),
        (&json!("model_calls"), &json!(0), &json!(2))
    );
    assert_eq!(model.journal().len(), 1);
    model.then(vec![counted(700, 10), text("All is well.")]);
    model.then(vec![counted(600, 10), call("ls", &json!({}))]);
    let turn = send(2).await;
    assert_eq!((&turn["error"]["details"]["used"], &turn["usage"]["prompt_tokens"]), (&json!(2), &json!(1300)));
    reconcile(&client).await;
    // With two there is one for the title.
    client.reset_session(json!({})).await.expect("a session");
    model.then(vec![counted(100, 10), text("Hello.")]);
    assert_eq!(send(2).await["finish_reason"], "end_turn");
    assert_eq!(small.journal().len(), 1);
    // And none where it would take more than a tenth of what is left.
    client.reset_session(json!({})).await.expect("a session");
    model.then(vec![counted(100, 10), text("Hello.")]);
    let wish = json!({"text": "Go on, please.", "budget": {"tokens": 20_000}});
    let turn = client.begin_turn(wish).await.expect("a turn").body;
    assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
    assert_eq!(small.journal().len(), 1);
}

fn most(model: &Model, ask: usize) -> u64 {
    let body = &model.journal()[ask].body;
    let most = [&body["max_tokens"], &body["max_completion_tokens"]].into_iter().find_map(Value::as_u64);
    most.expect("a limit")
}

async fn what_is_not_known_counts_at_its_worst(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("I am "), Step::Cut], vec![text("Here.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(Door::Rest);
    let wish = json!({"text": "Go.", "budget": {"tokens": 60_000}});
    let turn = client.begin_turn(wish).await.expect("a turn").body;
    let turn = server.rest.ended_turn(&turn["id"]).await;
    assert_eq!(turn["finish_reason"], "end_turn", "{turn}");
    let (first, second) = (most(&model, 0), most(&model, 1));
    assert_eq!(first, 32_000);
    assert!((1024..28_000).contains(&second), "all of the first may be gone: {second}");
    // A refusal costs nothing, not even a call.
    for _ in 0..3 {
        model.then(crate::ledger::overloaded());
    }
    model.then(vec![text("Now.")]);
    let wish = json!({"text": "Go.", "budget": {"tokens": 60_000, "model_calls": 1}});
    let turn = client.begin_turn(wish).await.expect("a turn").body;
    assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
    assert_eq!(most(&model, 5), 32_000);
    reconcile(&client).await;
}

async fn a_shorter_answer_is_asked_for_before_none(dialect: Dialect) {
    let model = Model::start(dialect, [vec![text("Yes.")], vec![text("Yes.")], vec![text("Yes.")]]).await;
    let server = Setup::with(&model).start();
    let client = server.through(Door::Rest);
    let mut asked = Vec::new();
    for budget in [json!({"usd": "0.3"}), json!({"usd": "0.1"}), json!({"tokens": 12_000})] {
        let turn = client.begin_turn(json!({"text": "Go.", "budget": budget})).await.expect("a turn").body;
        assert_eq!(server.rest.ended_turn(&turn["id"]).await["finish_reason"], "end_turn");
        asked.push(most(&model, asked.len()));
    }
    assert!(asked.iter().all(|most| (1024..32_000).contains(most)), "{asked:?}");
    assert!(asked[1] < asked[0], "{asked:?}");
    // Less than would be of use is not asked for.
    let error = exhausted(&client, &server, json!({"usd": "0.001"})).await;
    assert_eq!((&error["details"]["which"], &error["details"]["used"]), (&json!("usd"), &json!("0")));
    assert_eq!(model.journal().len(), 3);
}
