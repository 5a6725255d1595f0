//! Lists of jobs, newest first, a page at a time.

use std::str::FromStr;

use crate::{GroupId, Job, JobId, ParseError, Status};

#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs in one of these; empty means any.
    pub status: Vec<Status>,
    /// Only jobs of this tenant.
    pub tenant: String,
    /// Only jobs of this group.
    pub group: Option<GroupId>,
    pub method: Option<String>,
    /// Only jobs that carry all of these.
    pub labels: Vec<(String, String)>,
    /// Made then or later, in milliseconds since the epoch.
    pub created_after: Option<i64>,
    /// Made before then.
    pub created_before: Option<i64>,
    /// Only jobs behind this place.
    pub after: Option<Cursor>,
    pub limit: u32,
}

#[derive(Debug, Clone)]
pub struct JobPage {
    pub jobs: Vec<Job>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
}

/// A place in the list. It names a job, not an offset, so that jobs added meanwhile shift nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) created_at: i64,
    pub(crate) id: JobId,
}

impl Cursor {
    pub(crate) fn at(job: &Job) -> Self {
        Self { created_at: job.created_at, id: job.id.clone() }
    }

    /// Opaque to clients: they may only hand it back.
    pub fn encode(&self) -> String {
        format!("{:x}.{}", self.created_at, self.id)
    }

    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::read(text).ok_or_else(|| ParseError::of("cursor", text))
    }

    fn read(text: &str) -> Option<Self> {
        let (created_at, id) = text.split_once('.')?;
        Some(Self { created_at: i64::from_str_radix(created_at, 16).ok()?, id: id.parse().ok()? })
    }
}

impl FromStr for Cursor {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let cursor = Cursor { created_at: 1_700_000_000_123, id: JobId::generate() };
        assert_eq!(Cursor::parse(&cursor.encode()), Ok(cursor));
    }

    #[test]
    fn a_made_up_cursor_is_refused() {
        for text in ["", ".", "12", "zz.job_1", "1.job_1"] {
            assert!(Cursor::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
