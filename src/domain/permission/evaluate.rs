//! What rules and mode say of a call, without making it.

use std::{
    path::{Path, PathBuf},
    sync::PoisonError,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    PermissionMode, PermissionResolver, Verdict,
    grants::shown,
    judge::{Access, Call, Judge, Judgement},
    readers::Place,
    rules::{self, Rule},
};
use crate::domain::{
    OpenCode, Settings,
    error::{Error, Result},
    tools::{self, ToolError},
    workspace::{Workspace, blocking},
};

/// A call to be judged.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluatePermission {
    /// The tool.
    pub tool_name: String,
    /// Its arguments, as a model would send them.
    pub input: Value,
    /// Judge as in this mode; the session's if absent.
    #[schema(inline)]
    pub permission_mode: Option<PermissionMode>,
}

/// What rules and mode say of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PermissionEvaluation {
    /// What would become of it.
    pub verdict: Verdict,
    /// Whether a rule says so or the mode.
    pub by: PermissionResolver,
    /// Which, in words.
    pub reason: String,
    /// What `allow_session` would allow, where it would be asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

impl OpenCode {
    /// What the rules would say of a call, without making it.
    pub async fn evaluate_permission(&self, wish: EvaluatePermission) -> Result<PermissionEvaluation> {
        let EvaluatePermission { tool_name, input, permission_mode } = wish;
        let access = match tools::find(&tool_name).map(|entry| entry.access(input)) {
            Some(Ok(access)) => access,
            Some(Err(ToolError::ForModel(words))) => return Err(Error::field("input", words)),
            Some(Err(ToolError::Fatal(cause))) => return Err(Error::internal(cause)),
            None => {
                let names: Vec<&str> = tools::TOOLS.iter().map(|tool| tool.name).collect();
                return Err(Error::field("tool_name", format!("is no tool; there are {}", names.join(", "))));
            }
        };
        let mode = permission_mode.unwrap_or_else(|| self.0.requests.mode());
        let Judgement { verdict, by, reason, grants } = self.judge(tool_name, access, mode).await;
        let grant = Some(shown(&grants)).filter(|text| !text.is_empty());
        Ok(PermissionEvaluation { verdict, by: by.into(), reason, grant })
    }

    /// Judges what a tool would do.
    pub(in crate::domain) async fn judge(&self, tool: String, access: Access, mode: PermissionMode) -> Judgement {
        let domain = self.clone();
        let memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let directory = memory.directory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Links are looked up, and a long line takes the parser some time.
        blocking(move || {
            let workspace = &domain.0.workspace;
            let root = workspace.root().to_owned();
            let place = Place {
                is_git: root.join(".git").symlink_metadata().is_ok(),
                directory: directory.unwrap_or_else(|| root.clone()),
                root,
            };
            let paths = match &access {
                Access::Read(path) | Access::Edit(path) => names(workspace, path),
                Access::None | Access::Command(_) => Vec::new(),
            };
            let call = Call { tool, access, paths, place };
            Judge { mode, rules: &domain.0.rules, grants: &domain.0.requests.grants() }.judge(&call)
        })
        .await
    }
}

/// The operator's rules. A file that the agent could change is refused.
pub(in crate::domain) fn rules_of(settings: &Settings, workspace: &Workspace) -> Result<Vec<Rule>> {
    let Some(file) = &settings.permissions.rules else { return Ok(Vec::new()) };
    let rules = rules::read(file)?;
    if file.canonicalize().is_ok_and(|file| file.starts_with(workspace.root())) {
        let problem = "lies inside the workspace, where the agent could change it; keep it elsewhere";
        return Err(Error::field(rules::SETTING, problem));
    }
    Ok(rules)
}

/// The names of a path: as it was given, and behind links. None where it is refused anyway.
fn names(workspace: &Workspace, path: &str) -> Vec<PathBuf> {
    let given = if path.is_empty() { "." } else { path };
    let Ok(path) = workspace.for_model(given) else { return Vec::new() };
    let whole = workspace.root().join(path.as_path());
    // Of a new file, in folders that may be new too, below one that may be a link.
    let real =
        whole.ancestors().find_map(|there| Some(there.canonicalize().ok()?.join(whole.strip_prefix(there).ok()?)));
    let real = real.and_then(|real| real.strip_prefix(workspace.root()).ok().map(Path::to_owned));
    let mut names = vec![path.as_path().to_owned()];
    names.extend(real.filter(|real| *real != names[0]));
    names
}
