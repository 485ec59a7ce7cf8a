//! The ledger adds up to the last digit, whatever happens: its rows, the turns, the session and its counts.

use serde_json::json;

use crate::{
    in_both_dialects,
    ledger::overloaded,
    support::{
        Dialect, Door, Model, Server, Setup, Step, Tokens, Value,
        doors::Client,
        model::{bash, call, refusal, text},
        until,
    },
};

in_both_dialects! {
    it_adds_up_whatever_happens;
    it_adds_up_after_a_crash;
}

/// Tokens by class, picodollars, and whether these are all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    tokens: [u64; 5],
    picodollars: i128,
    lacks: bool,
}

const CLASSES: [&str; 5] =
    ["prompt_tokens", "completion_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"];

impl Sum {
    fn of(usage: &Value) -> Self {
        let complete = usage["cost_complete"].as_bool().expect("a bool");
        let picodollars = usage["cost_usd"].as_str().map_or(0, picodollars);
        Self { tokens: CLASSES.map(|class| usage[class].as_u64().expect("a number")), picodollars, lacks: !complete }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            tokens: std::array::from_fn(|class| self.tokens[class] + other.tokens[class]),
            picodollars: self.picodollars + other.picodollars,
            lacks: self.lacks || other.lacks,
        }
    }
}

/// An exact decimal of dollars.
fn picodollars(text: &str) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= 12, "{text}");
    format!("{whole}{fraction:0<12}").parse().expect("a decimal")
}

/// All rows, page by page.
pub async fn rows(client: &Client, query: Value) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let mut query = query.clone();
        query["limit"] = 7.into();
        if cursor.is_string() {
            query["cursor"] = cursor;
        }
        let page = client.list_ledger(query).await.expect("a page").body;
        rows.extend(page["calls"].as_array().expect("rows").clone());
        cursor = page["pagination"]["next_cursor"].clone();
        if !cursor.is_string() {
            assert_eq!(page["pagination"]["total"], rows.len());
            return rows;
        }
    }
}

/// The rows add up to the counts, the session and the turns; each turn's to that turn; each message's to that message.
pub async fn reconcile(client: &Client) {
    let rows = rows(client, json!({})).await;
    let all = |rows: &[Value]| rows.iter().map(|row| Sum::of(&row["usage"])).fold(Sum::default(), Sum::plus);
    let stats = client.get_session_stats().await.expect("counts").body;
    assert_eq!(Sum::of(&stats["usage"]), all(&rows), "{stats}");
    let session = client.get_session().await.expect("a session").body;
    for class in &CLASSES[..2] {
        assert_eq!((&stats[class], &session[class]), (&stats["usage"][class], &stats["usage"][class]));
    }
    assert_eq!((&stats["total_cost"], &session["cost"]), (&stats["usage"]["cost"], &stats["usage"]["cost"]));
    let turns = client.list_turns(json!({"limit": 200})).await.expect("turns").body;
    let mut whole = Sum::default();
    for turn in turns["turns"].as_array().expect("a list") {
        let of_turn: Vec<Value> = rows.iter().filter(|row| row["turn_id"] == turn["id"]).cloned().collect();
        let listed = self::rows(client, json!({"turn_id": turn["id"]})).await;
        assert_eq!(listed, of_turn);
        assert_eq!(Sum::of(&turn["usage"]), all(&of_turn), "{turn}");
        whole = whole.plus(Sum::of(&turn["usage"]));
    }
    assert_eq!(whole, Sum::of(&stats["usage"]), "every call is made for a turn");
    let messages = client.list_messages(json!({"limit": 200})).await.expect("messages").body;
    for message in messages["messages"].as_array().expect("a list") {
        if let Some(usage) = message.get("usage") {
            let row = rows.iter().find(|row| row["message_id"] == message["id"]);
            assert_eq!(row.map(|row| &row["usage"]), Some(usage), "{message}");
        }
    }
    for row in &rows {
        exact(row);
    }
}

/// A row's cost is that of its tokens at its price.
fn exact(row: &Value) {
    let price = |class: &str| row["price"][class].as_str().map(picodollars).map(|price| price / 1_000_000);
    let prices = ["input_per_1m", "output_per_1m", "cache_read_per_1m", "cache_write_per_1m"].map(price);
    let Sum { tokens: [prompt, completion, read, written, _], picodollars, lacks } = Sum::of(&row["usage"]);
    match prices {
        [Some(input), Some(output), Some(cache_read), Some(cache_write)] => {
            let cost = i128::from(prompt - read - written) * input
                + i128::from(completion) * output
                + i128::from(read) * cache_read
                + i128::from(written) * cache_write;
            assert_eq!(picodollars, cost, "{row}");
        }
        _ => assert!(picodollars == 0 && (lacks || row["outcome"] != "ok"), "{row}"),
    }
}

/// A die whose throws follow from its seed.
struct Die(u64);

impl Die {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn tokens(&mut self) -> Step {
        let (output, reasoning) = (self.throw(100_000), self.throw(1000));
        Step::Usage(Tokens {
            input: self.throw(1_000_000),
            cache_read: self.throw(3) * 777,
            cache_write: self.throw(2) * 333,
            output: output + reasoning,
            reasoning,
        })
    }
}

/// A model with a window, one for titles, and any other of unknown price.
async fn start(dialect: Dialect) -> (Model, Model, Server) {
    let (other, name) = match dialect {
        Dialect::Anthropic => (Dialect::OpenAi, "openai/gpt-5-nano"),
        Dialect::OpenAi => (Dialect::Anthropic, "anthropic/claude-haiku-5-5"),
    };
    let model = Model::start(dialect, []).await;
    let small = Model::start(other, []).await;
    let setup = small.settings().into_iter().fold(Setup::with(&model), |setup, (key, value)| setup.env(key, value));
    let (provider, id) = model.id().split_once('/').expect("a provider");
    let models = json!([{"provider": provider, "id": id, "context_window": 1_200_000, "max_output_tokens": 1000,
        "input_per_1m": 0.1234, "output_per_1m": 7.77, "cache_read_per_1m": 0.0375, "tools": true}]);
    let file = setup.folder("models.json");
    std::fs::write(&file, models.to_string()).expect("a file");
    let setup = setup.env("OPENCODE_MODELS_FILE", file.display()).env("OPENCODE_MODEL", model.id());
    (model, small, setup.env("OPENCODE_TITLE_MODEL", name).start())
}

/// One turn of some kind; `script` is empty before and after.
async fn a_turn(die: &mut Die, model: &Model, small: &Model, server: &Server) {
    let used = die.tokens();
    let mut wish = json!({"text": "Go on, please."});
    if die.throw(3) == 0 {
        wish["model"] = format!("{}/of-their-own", model.id().split('/').next().expect("a provider")).into();
    }
    // Nobody asks for a title but in the first turn of a session.
    if server.rest.read("/session").await["message_count"] == 0 {
        small.then(match die.throw(3) {
            0 => vec![die.tokens(), text("A title")],
            1 => vec![text("A "), Step::Stall],
            _ => vec![refusal(400, "no")],
        });
    }
    let mut cancel = false;
    match die.throw(8) {
        0 => model.then(vec![used, text("Yes.")]),
        1 => {
            model.then(vec![used, call("ls", &json!({})), call("ls", &json!({}))]);
            model.then(vec![die.tokens(), bash("echo yes")]);
            model.then(vec![die.tokens(), text("Done.")]);
        }
        2 => {
            for _ in 0..=die.throw(3) {
                model.then(overloaded());
            }
            model.then(vec![used, text("Now.")]);
        }
        3 => {
            // What a cut call used is known in part where its dialect says it at the beginning.
            model.then(vec![used, text("Half of"), Step::Cut]);
            model.then(vec![die.tokens(), text("The whole.")]);
        }
        4 => model.then(vec![refusal(400, "no")]),
        5 => {
            model.then(vec![used, text("I am "), Step::Stall]);
            cancel = true;
        }
        6 => {
            model.then(vec![used, Step::Stall]);
            cancel = true;
        }
        // More than fits the window: the next turn's first call is a summary.
        _ => {
            model.then(vec![Step::Usage(Tokens { input: 1_150_000, ..Tokens::default() }), text("Much.")]);
        }
    }
    let asked = model.journal().len();
    let turn = server.through(Door::Rest).begin_turn(wish).await.expect("a turn").body;
    if cancel {
        model.asked(asked).await;
        server.rest.post("/agent/cancel", &json!({})).await.ok();
    }
    // A script that has run out refuses, which is a row too.
    server.rest.ended_turn(&turn["id"]).await;
    model.forget_the_rest();
    small.forget_the_rest();
}

async fn it_adds_up_whatever_happens(dialect: Dialect) {
    let seed = u64::from(std::process::id());
    let mut die = Die(seed);
    println!("seed {seed}");
    let (model, small, server) = start(dialect).await;
    let doors = [Door::Rest, Door::Grpc, Door::GrpcWeb];
    for round in 0..24 {
        a_turn(&mut die, &model, &small, &server).await;
        match die.throw(8) {
            0 => drop(server.rest.delete("/messages").await),
            1 => drop(server.rest.post("/session/reset", &json!({})).await.ok()),
            _ => {}
        }
        reconcile(&server.through(doors[round % 3])).await;
    }
    let kinds: Vec<_> = model.journal().iter().map(|ask| ask.system().contains("summarise")).collect();
    println!("{} calls, {} summaries", kinds.len(), kinds.iter().filter(|is| **is).count());
}

async fn it_adds_up_after_a_crash(dialect: Dialect) {
    let (model, _small, mut server) = start(dialect).await;
    model.then(vec![text("Yes.")]);
    server.rest.ask("Is it so?").await;
    model.then(vec![text("I am "), Step::Stall]);
    let turn = server.rest.begin("And now?").await;
    until("words", async || {
        let messages = server.rest.messages().await;
        messages.last().filter(|last| last["role"] == "assistant" && last.get("finished_at").is_none()).cloned()
    })
    .await;
    server.crash_and_restart();
    let client = server.through(Door::Rest);
    let rows = rows(&client, json!({"turn_id": turn["id"]})).await;
    assert_eq!((rows.len(), &rows[0]["outcome"]), (1, &json!("interrupted")));
    assert_eq!((rows[0]["usage"].get("cost_usd"), &rows[0]["usage"]["cost_complete"]), (None, &json!(false)));
    assert_eq!(rows[0]["message_id"], server.rest.messages().await.last().expect("an answer")["id"]);
    reconcile(&client).await;
    // Nor is a call forgotten of which not a word had come: its provider may have worked all the same.
    let refused = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    model.then(vec![Step::Http { status: 529, headers: vec![("retry-after", "0".into())], body: refused }]);
    model.then(vec![Step::Stall]);
    let asked = model.journal().len();
    let turn = server.rest.begin("And then?").await;
    model.asked(asked + 1).await;
    server.crash_and_restart();
    let client = server.through(Door::Rest);
    let rows = self::rows(&client, json!({"turn_id": turn["id"]})).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!((&rows[1]["outcome"], &rows[1]["attempt"]), (&json!("interrupted"), &json!(2)));
    assert_eq!((rows[1].get("message_id"), &rows[1]["usage"]["cost_complete"]), (None, &json!(false)));
    reconcile(&client).await;
}
