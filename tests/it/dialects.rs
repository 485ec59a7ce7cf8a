//! What models of different talents are sent.

use serde_json::json;

use crate::{
    in_both_dialects,
    support::{
        Answer, Dialect, Model, Server, Setup,
        model::{call, text},
        wire::Said,
    },
};

in_both_dialects! {
    a_model_without_tools_is_told_in_words_what_others_did;
}

/// Says something to this model and waits for the end.
async fn tell(server: &Server, words: &str, model: &str) {
    let request = server.rest.request("POST", "/messages").header("accept", "application/json");
    let sent = Answer::of(request.json(&json!({"text": words, "model": model}))).await.ok();
    assert_eq!(sent["turn"]["finish_reason"], "end_turn", "{sent}");
}

async fn a_model_without_tools_is_told_in_words_what_others_did(dialect: Dialect) {
    let silent = call("view", &json!({"path": "README.md"}));
    let turns = [
        vec![text("I look."), call("ls", &json!({"path": "."})), silent.clone()],
        vec![silent],
        vec![text("Done.")],
        vec![text("As you say.")],
        vec![text("And again with tools.")],
    ];
    let model = Model::start(dialect, turns).await;
    let provider = model.id().split('/').next().expect("a provider").to_owned();
    let setup = Setup::with(&model);
    let table = setup.folder("models.json");
    let plain = json!([{"provider": provider, "id": "plain", "tools": false}]);
    std::fs::write(&table, plain.to_string()).expect("a file");
    let server = setup.env("OPENCODE_MODELS_FILE", table.display()).start();
    tell(&server, "Look.", model.id()).await;
    tell(&server, "What is there?", &format!("{provider}/plain")).await;
    let asked = model.asked(3).await;
    assert!(asked.tools().is_empty());
    let told = asked.conversation();
    let is_plain = |said: &Said| matches!(said, Said::User(_) | Said::Model(_));
    assert!(told.iter().all(is_plain), "{told:?}");
    let whole = told.iter().map(|said| format!("{said:?}\n")).collect::<String>();
    for words in ["Look.", "I look.", "The tool ls was called", "README.md", "# A project", "Done.", "What is there?"] {
        assert!(whole.contains(words), "{words} is not in {whole}");
    }
    let roles: Vec<&str> =
        asked.body["messages"].as_array().expect("messages").iter().filter_map(|it| it["role"].as_str()).collect();
    let roles = roles.strip_prefix(&["system"]).unwrap_or(&roles).to_vec();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"], "nobody speaks twice in a row");
    // Whoever takes tools is told of them as before.
    tell(&server, "Go on.", model.id()).await;
    let told = model.asked(4).await.conversation();
    assert_eq!(told.iter().filter(|said| matches!(said, Said::Call { .. })).count(), 3, "{told:?}");
}

#[tokio::test]
async fn newer_models_of_openai_get_tools_only_without_reasoning() {
    let ids = ["gpt-6-sol", "gpt-6-luna", "gpt-5.6-terra", "gpt-5.2", "gpt-6-astra"];
    let model = Model::start(Dialect::OpenAi, ids.map(|_| vec![text("Yes.")])).await;
    // Another address may be a proxy, which translates for those that take no tools in this dialect.
    let server = Setup::with(&model).start();
    for (number, id) in ids.into_iter().enumerate() {
        tell(&server, "Hello.", &format!("openai/{id}")).await;
        let asked = model.asked(number).await;
        assert!(!asked.tools().is_empty() && asked.body["max_completion_tokens"].is_u64(), "{id}");
        let effort = asked.body.get("reasoning_effort").and_then(|effort| effort.as_str());
        let expected = ["gpt-6-sol", "gpt-6-luna", "gpt-5.6-terra"].contains(&id).then_some("none");
        assert_eq!(effort, expected, "{id}");
        for name in ["max_tokens", "temperature", "top_p"] {
            assert_eq!(asked.body.get(name), None, "{id} refuses {name}");
        }
    }
}
