//! Permissions through any door, and who may answer.

use serde_json::{Value, json};

use super::{
    Server, Setup,
    doors::{Client, Door, Outcome, text},
};

/// The reply token of servers that ask.
pub const TOKEN: &str = "a-reply-token-of-tests";

impl Setup {
    /// In the mode `ask`, with a reply token that is known.
    pub fn asking(&self) -> Self {
        self.env("OPENCODE_PERMISSION_MODE", "ask").env("OPENCODE_REPLY_TOKEN", TOKEN)
    }
}

impl Server {
    /// A client of this door that may answer.
    pub fn trusted(&self, door: Door) -> Client {
        self.through(door).with_token(TOKEN)
    }
}

impl Client {
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self.rpc = self.rpc.header("x-reply-token", token);
        self
    }

    /// The same with an API token.
    pub fn bearer(mut self, token: &str) -> Self {
        self.rest = self.rest.bearer(token);
        self.rpc = self.rpc.header("authorization", &format!("Bearer {token}"));
        self
    }

    /// A request of the first door, with what this client shows.
    pub(super) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.rest.request(method, path);
        match &self.token {
            Some(token) => request.header("x-reply-token", token),
            None => request,
        }
    }

    pub async fn create_ticket(&self, wish: Value) -> Outcome {
        self.call(("POST", "/tickets", Some(wish.clone())), ("CreateTicket", wish)).await
    }

    pub async fn get_capabilities(&self) -> Outcome {
        self.call(("GET", "/capabilities", None), ("GetCapabilities", json!({}))).await
    }

    pub async fn list_permissions(&self) -> Outcome {
        self.call(("GET", "/agent/permissions", None), ("ListPermissions", json!({}))).await
    }

    pub async fn reply_permission(&self, id: &Value, wish: Value) -> Outcome {
        let path = format!("/agent/permissions/{}", text(id));
        let mut rpc = wish.clone();
        rpc["permission_id"] = id.clone();
        if let Some(decision) = wish["decision"].as_str() {
            rpc["decision"] = format!("PERMISSION_DECISION_{}", decision.to_uppercase()).into();
        }
        self.call(("POST", &path, Some(wish)), ("ReplyPermission", rpc)).await
    }

    /// `wish` as REST has it.
    pub async fn evaluate_permission(&self, wish: Value) -> Outcome {
        let mut rpc = with_mode(wish.clone());
        rpc["input"] = wish["input"].to_string().into();
        self.call(("POST", "/agent/permissions/evaluate", Some(wish)), ("EvaluatePermission", rpc)).await
    }
}

/// A mode as the proto has it.
pub(super) fn with_mode(mut wish: Value) -> Value {
    if let Some(mode) = wish["permission_mode"].as_str() {
        wish["permission_mode"] = format!("PERMISSION_MODE_{}", mode.to_uppercase()).into();
    }
    wish
}
