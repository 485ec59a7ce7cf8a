//! Titles from a small model: beside the turn, paid with it, and never in anybody's way.

use serde_json::json;

use crate::{
    events::check_against_reads,
    in_both_dialects,
    support::{
        Dialect, Gate, Model, Server, Setup, Step, Tokens, Value,
        model::{refusal, text},
        wire::Said,
    },
};

in_both_dialects! {
    a_small_model_makes_the_title;
    a_title_that_was_set_meanwhile_stays;
    a_turn_does_not_wait_for_its_title;
    a_refused_title_changes_nothing;
    cancel_gives_the_title_up;
}

/// A turn's model of one dialect, a small one of the other for titles, and a server with both.
async fn two_models(dialect: Dialect, turn: Vec<Step>, title: Vec<Step>) -> (Model, Model, Server) {
    let (other, name) = match dialect {
        Dialect::Anthropic => (Dialect::OpenAi, "openai/gpt-5-nano"),
        Dialect::OpenAi => (Dialect::Anthropic, "anthropic/claude-haiku-5-5"),
    };
    let model = Model::start(dialect, [turn]).await;
    let small = Model::start(other, [title]).await;
    let setup = small.settings().into_iter().fold(Setup::with(&model), |setup, (key, value)| setup.env(key, value));
    let server = setup.env("OPENCODE_MODEL", model.id()).env("OPENCODE_TITLE_MODEL", name).start();
    (model, small, server)
}

async fn title(server: &Server) -> Value {
    server.rest.read("/session").await["title"].clone()
}

async fn a_small_model_makes_the_title(dialect: Dialect) {
    let gate = Gate::new();
    let turn = vec![text("I do."), Step::Wait(gate.clone()), text(" Done.")];
    let used = Step::Usage(Tokens { input: 1_000_000, output: 1_000_000, ..Tokens::default() });
    let small_gate = Gate::new();
    let titled = vec![used, Step::Wait(small_gate.clone()), text("\"Repair the login form.\"")];
    let (model, small, server) = two_models(dialect, turn, titled).await;
    let mut stream = server.rest.stream("/events?after=0").await;
    let begun = server.rest.begin("please repair the form by which users log in, today").await;
    // The first title is there before the turn, the better one as soon as it is made.
    stream.until("session_updated").await;
    assert_eq!(title(&server).await, "please repair the form by which users log in,");
    small_gate.open();
    let updated = stream.until("session_updated").await.pop().expect("an event").json;
    assert_eq!((&updated["session"]["title"], updated.get("turn_id")), (&json!("Repair the login form"), None));
    gate.open();
    let turn = server.rest.ended_turn(&begun["id"]).await;
    assert_eq!(title(&server).await, "Repair the login form");

    // One call without tools, and with nothing but the message in it.
    let asked = small.asked(0).await;
    assert_eq!(asked.tools(), [""; 0]);
    let Ok([Said::User(told)]) = <[Said; 1]>::try_from(asked.conversation()) else { panic!("one message") };
    assert!(told.contains("please repair the form"), "{told}");

    // It is in the turn's sum and the session's, at its own price, and in no message.
    let price = match dialect {
        Dialect::Anthropic => 0.45,
        Dialect::OpenAi => 0.6,
    };
    let own = server.rest.messages().await[1]["usage"].clone();
    let difference = turn["usage"]["cost"].as_f64().expect("a cost") - own["cost"].as_f64().expect("a cost");
    assert!((difference - price).abs() < 1e-9, "{difference}");
    assert_eq!(turn["usage"]["prompt_tokens"], own["prompt_tokens"].as_u64().expect("a number") + 1_000_000);
    let stats = server.rest.read("/session/stats").await;
    assert_eq!(stats["usage"], turn["usage"]);
    assert_eq!(stats["models_used"].as_array().map(Vec::len), Some(2));

    // Only the first message makes a title.
    model.then(vec![text("Yes.")]);
    server.rest.ask("And now?").await;
    assert_eq!(small.journal().len(), 1);
    check_against_reads(&server).await;
}

async fn a_title_that_was_set_meanwhile_stays(dialect: Dialect) {
    let (gate, turn) = (Gate::new(), Gate::new());
    let steps = vec![text("I do."), Step::Wait(turn.clone())];
    let answer = vec![Step::Wait(gate.clone()), text("Too late")];
    let (_model, small, server) = two_models(dialect, steps, answer).await;
    let begun = server.rest.begin("please repair it").await;
    small.asked(0).await;
    server.rest.send("PATCH", "/session", &json!({"title": "Mine"})).await.ok();
    gate.open();
    turn.open();
    let turn = server.rest.ended_turn(&begun["id"]).await;
    assert_eq!(title(&server).await, "Mine");
    assert_eq!((&turn["usage"]["prompt_tokens"], &turn["usage"]["cost_complete"]), (&json!(200), &json!(true)));
    check_against_reads(&server).await;
}

async fn a_turn_does_not_wait_for_its_title(dialect: Dialect) {
    let (_model, small, server) = two_models(dialect, vec![text("Done.")], vec![text("A "), Step::Stall]).await;
    let sent = server.rest.ask("please repair it").await;
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    assert_eq!(title(&server).await, "please repair it");
    // The call was ended, and what it cost is not known.
    small.left(1).await;
    assert_eq!(sent["turn"]["usage"]["cost_complete"], false);
    check_against_reads(&server).await;
}

async fn a_refused_title_changes_nothing(dialect: Dialect) {
    let gate = Gate::new();
    let turn = vec![Step::Wait(gate.clone()), text("Done.")];
    let (model, small, server) = two_models(dialect, turn, vec![refusal(404, "no such model")]).await;
    let begun = server.rest.begin("please repair it").await;
    small.asked(0).await;
    gate.open();
    let turn = server.rest.ended_turn(&begun["id"]).await;
    assert_eq!((&turn["finish_reason"], &turn["usage"]["cost_complete"]), (&json!("end_turn"), &json!(true)));
    assert_eq!(title(&server).await, "please repair it");
    assert_eq!(model.journal().len(), 1, "nor is it asked of another model");
    assert_eq!(small.journal().len(), 1, "nor again");
    assert_eq!(server.rest.read("/health").await["checks"]["model"], "ok");
    check_against_reads(&server).await;
}

async fn cancel_gives_the_title_up(dialect: Dialect) {
    let (_model, small, server) = two_models(dialect, vec![Step::Stall], vec![Step::Stall]).await;
    let mut stream = server.rest.say(&json!({"text": "please repair it"})).await;
    small.asked(0).await;
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    assert_eq!(canceled["canceled"], true);
    assert_eq!(stream.until("turn_completed").await.pop().expect("an event").json["finish_reason"], "canceled");
    small.left(1).await;
    check_against_reads(&server).await;
}
