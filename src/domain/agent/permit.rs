//! A tool call and its permission: judged, asked for if need be, and what its model is told if it may not run.

use tokio::{sync::oneshot, time::Instant};

use super::{End, Turn, clock::Phase};
use crate::domain::{
    error::Result,
    event::{AgentStatusChanged, EventKind, PermissionRequested, PermissionResolved},
    id::PermissionId,
    part::{FinishReason, Part, ToolCall},
    permission::{
        Access, Authority, Grant, Judgement, Open, Permission, PermissionDecision, PermissionResolver, Resolution,
        Verdict, shown,
    },
    session::now,
    status::Activity,
    store::Batch,
    tools,
    turn::TurnErrorCode,
};

/// Whether a call may run.
pub(super) enum Permit {
    Given,
    /// What the model is told.
    Denied(String),
    /// The turn ends; what the result of the call says.
    Stopped(String),
}

/// What was judged of a call, and whether it runs a command.
type Judged = Option<(Judgement, bool)>;

impl Turn {
    /// Stores that a call comes to run, which `batch` says, with what is decided about it, and waits for the answer where
    /// it is asked for.
    pub(super) async fn permit(&self, call: &ToolCall, batch: Batch) -> Result<Permit> {
        let judged = tokio::select! {
            // As of a tool: a path may be where the file system hangs.
            judged = self.judged(call) => judged,
            () = self.given_up() => {
                self.append(batch).await?;
                return Ok(Permit::Denied("canceled before it ran".into()));
            }
        };
        let Some((judgement, is_command)) = judged else {
            // There is no such tool, or it is called wrongly: that is for the tool to say.
            self.append(batch).await?;
            return Ok(Permit::Given);
        };
        let Judgement { verdict, by, reason, grants } = judgement;
        match verdict {
            Verdict::Allow => {
                // What a rule lets run; that the mode lets things run is said by the mode.
                let is_told = is_command && by == Authority::Rule;
                let decided = self.decided(call, PermissionDecision::AllowOnce, by, &reason);
                let batch = if is_told { batch.event(Some(&self.id), decided) } else { batch };
                self.append(batch).await?;
                Ok(Permit::Given)
            }
            Verdict::Deny => {
                let decided = self.decided(call, PermissionDecision::Deny, by, &reason);
                self.append(batch.event(Some(&self.id), decided)).await?;
                let words = format!("permission denied by {reason}; this was not run and would not be if asked again");
                Ok(Permit::Denied(words))
            }
            Verdict::Ask => self.ask(call, batch, reason, grants).await,
        }
    }

    async fn judged(&self, call: &ToolCall) -> Judged {
        let access = tools::find(&call.name)?.access(call.input.clone()).ok()?;
        let is_command = matches!(access, Access::Command(_));
        let mode = self.running.mode().unwrap_or_else(|| self.domain.0.requests.mode());
        Some((self.domain.judge(call.name.clone(), access, mode).await, is_command))
    }

    fn decided(&self, call: &ToolCall, decision: PermissionDecision, by: Authority, reason: &str) -> EventKind {
        EventKind::PermissionResolved(PermissionResolved {
            permission_id: None,
            decision,
            by: by.into(),
            reason: Some(reason.to_owned()),
            tool_call_id: call.id.clone(),
            tool_name: call.name.clone(),
        })
    }

    async fn ask(&self, call: &ToolCall, batch: Batch, reason: String, grants: Vec<Grant>) -> Result<Permit> {
        let requests = &self.domain.0.requests;
        let (answer, mut answered) = oneshot::channel();
        let permission = self.permission(call, &reason, &shown(&grants));
        let id = permission.id.clone();
        let deadline = Instant::now() + self.domain.0.settings.permissions.timeout;
        {
            let _order = requests.order.lock().await;
            let (tool_call_id, tool_name) = (call.id.clone(), call.name.clone());
            let open = Open { turn: self.id.clone(), tool_call_id, tool_name, grants, answer };
            let is_first = requests.begin(id.clone(), open);
            let mut batch =
                batch.event(Some(&self.id), EventKind::PermissionRequested(PermissionRequested { permission }));
            if is_first {
                let status = AgentStatusChanged {
                    status: Activity::WaitingPermission,
                    current_operation: Some(format!("waiting for a permission to run {}", call.name)),
                };
                batch = batch.event(Some(&self.id), EventKind::AgentStatusChanged(status));
            }
            if let Err(error) = self.append(batch).await {
                requests.forget(&id);
                return Err(error);
            }
        }
        let settings = &self.domain.0.settings.permissions;
        let _asking = self.running.clock().enter(Phase::Permission);
        let by = tokio::select! {
            // An answer that is there is the answer.
            biased;
            answer = &mut answered => return Ok(told(received(answer)?)),
            () = self.tools.cancel.cancelled() => match self.running.is_interrupted() {
                true => PermissionResolver::Interruption,
                false => PermissionResolver::Cancel,
            },
            () = tokio::time::sleep_until(deadline) => PermissionResolver::Timeout,
            () = requests.presence().absent(settings.absence) => PermissionResolver::NoClient,
        };
        let decision = match by {
            PermissionResolver::Timeout | PermissionResolver::NoClient => settings.default,
            PermissionResolver::Client
            | PermissionResolver::Cancel
            | PermissionResolver::Interruption
            | PermissionResolver::Rule
            | PermissionResolver::Mode => PermissionDecision::Deny,
        };
        // Somebody may have been first; then theirs is the answer.
        let _ = self.domain.resolve_permission(id, Resolution { decision, by, reason: None }).await;
        Ok(told(received(answered.await)?))
    }

    fn permission(&self, call: &ToolCall, why: &str, grant: &str) -> Permission {
        let settings = &self.domain.0.settings.permissions;
        let now = now();
        let is_it = |part: &Part| matches!(part, Part::ToolCall(part) if part.id == call.id);
        let message = self.messages.iter().rev().find(|message| message.parts.iter().any(is_it));
        Permission {
            id: PermissionId::generate(),
            turn_id: self.id.clone(),
            message_id: message.map(|message| message.id.clone()),
            part_index: message.and_then(|message| message.parts.iter().position(is_it)).map(|index| index as u32),
            tool_call_id: call.id.clone(),
            tool_name: call.name.clone(),
            description: described(call, why),
            grant: Some(grant.to_owned()).filter(|grant| !grant.is_empty()),
            default_decision: settings.default,
            requested_at: now,
            deadline: now.checked_add(settings.timeout).unwrap_or(now),
            decision: None,
            resolved_by: None,
            reason: None,
            resolved_at: None,
        }
    }
}

/// Bytes of a call that its request shows; the call itself has all.
const MAX_SHOWN: usize = 4_000;

fn described(call: &ToolCall, why: &str) -> String {
    let what = ["command", "path"].iter().find_map(|name| call.input[*name].as_str()).unwrap_or_default();
    format!("{}: {} ({why})", call.name, crate::domain::part::head(what, MAX_SHOWN))
}

fn received(answer: std::result::Result<Result<Resolution>, oneshot::error::RecvError>) -> Result<Resolution> {
    // Whoever takes a request answers it.
    answer.unwrap_or_else(|_| Err(crate::domain::error::Error::internal("a permission request was lost")))
}

/// What the model is told of an answer.
fn told(resolution: Resolution) -> Permit {
    let Resolution { decision, by, reason } = resolution;
    let who = match by {
        PermissionResolver::Client => "the user denied permission".to_owned(),
        PermissionResolver::Timeout => "permission denied: nobody answered in time".to_owned(),
        PermissionResolver::NoClient => "permission denied: nobody is there to be asked".to_owned(),
        PermissionResolver::Cancel => "permission denied: the turn was cancelled".to_owned(),
        PermissionResolver::Interruption => "permission denied: the server was stopped".to_owned(),
        PermissionResolver::Rule | PermissionResolver::Mode => "permission denied".to_owned(),
    };
    let words = match reason.filter(|reason| !reason.trim().is_empty()) {
        Some(reason) => format!("{who}: {reason}\nThis was not run."),
        None => format!("{who}; this was not run"),
    };
    match decision {
        PermissionDecision::AllowOnce | PermissionDecision::AllowSession => Permit::Given,
        PermissionDecision::Deny => Permit::Denied(words),
        PermissionDecision::Stop => Permit::Stopped(words),
    }
}

/// The end of a turn whose permission was answered `stop`.
pub(super) fn stopped(words: String) -> End {
    End::failed(FinishReason::PermissionDenied, TurnErrorCode::PermissionDenied, words, None)
}
