//! On what a request depends: etags and times, checked in one place for every verb and door.

use jiff::Timestamp;

use super::super::error::{Code, Error, Result};

/// Most bytes of a list of etags.
const MAX_LIST: usize = 8 * 1024;

/// What must be so for a request to be carried out. The texts are etags with or without quotes, lists of them
/// separated by commas, or `*` for whatever there is; a weak tag (`W/`) is no match where a file has to be the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The file has one of these tags.
    pub if_match: Option<String>,
    /// The file has none of these tags; a read answers then that it was not modified.
    pub if_none_match: Option<String>,
    /// The file was not modified after this, to the second. Not looked at together with `if_match`.
    pub unmodified_since: Option<Timestamp>,
    /// The file was modified after this, to the second; for reads. Not looked at together with `if_none_match`.
    pub modified_since: Option<Timestamp>,
}

/// Conditions that can be checked.
#[derive(Clone)]
pub(in crate::domain) struct Checks {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    unmodified_since: Option<Timestamp>,
    modified_since: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    Any,
    These(Vec<Tag>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    name: String,
    is_weak: bool,
}

/// What is there, as far as conditions are about it.
pub(in crate::domain) struct Current<'a> {
    /// Its etag; `None` for what has none, such as a directory. Asked for only where it matters.
    pub etag: &'a dyn Fn() -> Result<Option<String>>,
    /// When it last changed.
    pub modified_at: Timestamp,
}

impl Conditions {
    /// Reads the lists; an error names the one that is none.
    pub(in crate::domain) fn checks(&self) -> Result<Checks> {
        let tags = |field, list: &Option<String>| list.as_deref().map(|list| Tags::parse(field, list)).transpose();
        Ok(Checks {
            if_match: tags("if_match", &self.if_match)?,
            if_none_match: tags("if_none_match", &self.if_none_match)?,
            unmodified_since: self.unmodified_since,
            modified_since: self.modified_since,
        })
    }
}

impl Checks {
    /// Whether a file may be written or deleted; `current` is `None` where there is none.
    pub(in crate::domain) fn permit_change(&self, path: &str, current: Option<&Current<'_>>) -> Result<()> {
        self.permit(path, current)?;
        let refused = match (&self.if_none_match, current) {
            (None, _) | (Some(_), None) => false,
            (Some(Tags::Any), Some(_)) => true,
            (Some(Tags::These(tags)), Some(current)) => {
                (current.etag)()?.is_some_and(|etag| tags.iter().any(|tag| tag.name == etag))
            }
        };
        if refused { Err(failed(path, current)) } else { Ok(()) }
    }

    /// Whether a file is to be read; false where the client has it already.
    pub(in crate::domain) fn permit_read(&self, path: &str, current: &Current<'_>) -> Result<bool> {
        self.permit(path, Some(current))?;
        Ok(match (&self.if_none_match, self.modified_since) {
            (Some(Tags::Any), _) => false,
            (Some(Tags::These(tags)), _) => {
                (current.etag)()?.is_none_or(|etag| tags.iter().all(|tag| tag.name != etag))
            }
            (None, Some(since)) => current.modified_at.as_second() > since.as_second(),
            (None, None) => true,
        })
    }

    fn permit(&self, path: &str, current: Option<&Current<'_>>) -> Result<()> {
        let permitted = match (&self.if_match, current) {
            (Some(_), None) => false,
            (Some(Tags::Any), Some(_)) => true,
            (Some(Tags::These(tags)), Some(current)) => {
                (current.etag)()?.is_some_and(|etag| tags.iter().any(|tag| !tag.is_weak && tag.name == etag))
            }
            (None, Some(current)) => {
                self.unmodified_since.is_none_or(|since| current.modified_at.as_second() <= since.as_second())
            }
            (None, None) => true,
        };
        if permitted { Ok(()) } else { Err(failed(path, current)) }
    }
}

fn failed(path: &str, current: Option<&Current<'_>>) -> Error {
    let now = match current {
        None => "does not exist".to_owned(),
        Some(current) => match (current.etag)() {
            Ok(Some(etag)) => format!("has the etag \"{etag}\" now"),
            Ok(None) => "exists and has no etag".to_owned(),
            Err(error) => return error,
        },
    };
    Error::new(Code::PreconditionFailed, format!("a condition of the request does not hold: {path:?} {now}"))
}

impl Tags {
    fn parse(field: &str, list: &str) -> Result<Self> {
        let bad = |what: &str| Err(Error::field(field, format!("{what}: give an etag, a list of them, or *")));
        if list.len() > MAX_LIST {
            return bad("is too long");
        }
        let mut tags = Vec::new();
        let mut rest = list.trim();
        if rest == "*" {
            return Ok(Self::Any);
        }
        while !rest.is_empty() {
            let weak = rest.strip_prefix("W/");
            let is_weak = weak.is_some();
            rest = weak.unwrap_or(rest);
            let (name, after) = match rest.strip_prefix('"') {
                Some(quoted) => match quoted.split_once('"') {
                    Some(halves) => halves,
                    None => return bad("has a quote that is not closed"),
                },
                None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
            };
            let name = name.trim_end();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'*') {
                return bad("is no etag");
            }
            tags.push(Tag { name: name.to_owned(), is_weak });
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(more) => more.trim_start(),
                None if after.is_empty() => after,
                None => return bad("has something behind an etag"),
            };
        }
        if tags.is_empty() { bad("is empty") } else { Ok(Self::These(tags)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags() {
        let names = |list: &str| match Tags::parse("if_match", list).unwrap() {
            Tags::Any => vec!["*".to_owned()],
            Tags::These(tags) => {
                tags.iter().map(|tag| format!("{}{}", ["", "W/"][tag.is_weak as usize], tag.name)).collect()
            }
        };
        assert_eq!(names("*"), ["*"]);
        assert_eq!(names("\"a\""), ["a"]);
        assert_eq!(names("a"), ["a"]);
        assert_eq!(names(" \"a\" , W/\"b\",c , \"d,e\""), ["a", "W/b", "c", "d,e"]);
        for bad in ["", "  ", ",", "\"a", "\"a\" b", "\"\"", "*, a", "a b", "\"a\"b", "ä", "W/"] {
            assert_eq!(
                Tags::parse("if_match", bad).map_err(|error| error.code()),
                Err(Code::InvalidArgument),
                "{bad:?}"
            );
        }
    }
}
