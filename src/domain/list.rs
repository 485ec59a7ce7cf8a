//! Lists in pages: what a client may ask for, and how an answer says where it stands.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Read,
    cursor::Cursor,
    error::{Error, Result},
    store::{Page, PageRequest},
};

/// Items of a page where the request names no number.
pub(super) const DEFAULT_LIMIT: u32 = 50;
/// Most items of a page.
pub(super) const MAX_LIMIT: u32 = 200;

/// Which page of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// 1 to 200; zero or absent is 50.
    pub limit: Option<i64>,
    /// Skips this many; not together with `cursor`.
    pub offset: Option<i64>,
    /// `pagination.next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Oldest first, unless said otherwise.
    pub order: Option<Order>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SortOrder)]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

/// Where a page stands in its list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pagination {
    /// Items on all pages.
    pub total: u64,
    /// The limit that was applied.
    pub limit: u32,
    /// The offset that was applied; 0 where a cursor was used.
    pub offset: u64,
    /// Goes into `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// Whether more follow.
    pub has_more: bool,
}

/// A page with the state of the log that it shows.
#[derive(Clone, Debug)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the page stands.
    pub pagination: Pagination,
    /// Follow from here.
    pub as_of: Cursor,
}

/// Checked: what the store is asked, and what the answer repeats.
pub(super) struct Checked {
    pub(super) page: PageRequest,
    /// What makes a cursor this list's own: one of another list or session is refused.
    list: String,
}

impl PageQuery {
    /// Checks the wish. `list` names the list and, where its items go away together, the session.
    pub(super) fn check(&self, list: &str) -> Result<Checked> {
        let limit = match self.limit.unwrap_or(0) {
            0 => DEFAULT_LIMIT,
            limit => u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| Error::field("limit", format!("must be 1 to {MAX_LIMIT}, or 0 for {DEFAULT_LIMIT}")))?,
        };
        let offset = match self.offset.unwrap_or(0) {
            offset @ 0..=0x7fff_ffff => offset as u64,
            _ => return Err(Error::field("offset", "must be 0 to 2147483647")),
        };
        let descending = self.order.unwrap_or_default() == Order::Desc;
        let list = format!("{list}{}", if descending { "d" } else { "a" });
        let cursor = self.cursor.as_deref().filter(|cursor| !cursor.is_empty());
        if cursor.is_some() && offset != 0 {
            return Err(Error::field("offset", "cannot be combined with cursor"));
        }
        let after = cursor
            .map(|cursor| {
                let (of, row) = cursor.rsplit_once('-').unwrap_or_default();
                let row = row.parse::<u32>().ok().filter(|_| of == list);
                row.map(i64::from).ok_or_else(|| {
                    Error::field("cursor", "is not of this list; take next_cursor of a page with the same order, made since the last reset")
                })
            })
            .transpose()?;
        Ok(Checked { page: PageRequest { limit, offset, after, descending }, list })
    }
}

impl Checked {
    /// The answer of a verb that lists.
    pub(super) fn answer<T>(&self, read: Read<Page<T>>) -> List<T> {
        let Page { items, total, next } = read.value;
        let next_cursor = next.map(|row| format!("{}-{row}", self.list));
        let pagination = Pagination {
            total,
            limit: self.page.limit,
            offset: self.page.offset,
            has_more: next_cursor.is_some(),
            next_cursor,
        };
        List { items, pagination, as_of: read.as_of }
    }
}

/// The paging parameters of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// 1 to 200; zero or absent is 50.
    #[param(minimum = 0, maximum = 200)]
    pub limit: Option<i64>,
    /// Skips this many items; not together with `cursor`.
    #[param(minimum = 0, maximum = 2147483647)]
    pub offset: Option<i64>,
    /// `pagination.next_cursor` of the page before.
    pub cursor: Option<String>,
}
