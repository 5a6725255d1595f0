//! Names of jobs, groups and workers. A `JobId` or `GroupId` that exists is well-formed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ParseError;

const JOB_PREFIX: &str = "job_";
const GROUP_PREFIX: &str = "group_";
pub(crate) const AUDIT_PREFIX: &str = "aud_";

/// `aud_` and the hex of a version 7 UUID.
pub(crate) fn new_audit_id() -> String {
    format!("{AUDIT_PREFIX}{}", Uuid::now_v7().simple())
}

/// `job_` and the hex of a version 7 UUID, so that ids sort by the time of their making.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    pub fn generate() -> Self {
        Self(format!("{JOB_PREFIX}{}", Uuid::now_v7().simple()))
    }

    /// Accepts only what `generate` could have made, in its one spelling.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if is_made_of(JOB_PREFIX, text) { Ok(Self(text.to_owned())) } else { Err(ParseError::of("job id", text)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub(crate) fn is_made_of(prefix: &str, text: &str) -> bool {
    let hex = text.strip_prefix(prefix).unwrap_or_default();
    Uuid::try_parse(hex).is_ok_and(|uuid| uuid.simple().to_string() == hex)
}

impl FromStr for JobId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for JobId {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        Self::parse(&text)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl AsRef<str> for JobId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `group_` and the hex of a version 7 UUID: the jobs of one request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(String);

impl GroupId {
    pub fn generate() -> Self {
        Self(format!("{GROUP_PREFIX}{}", Uuid::now_v7().simple()))
    }

    /// Accepts only what `generate` could have made, in its one spelling.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if is_made_of(GROUP_PREFIX, text) { Ok(Self(text.to_owned())) } else { Err(ParseError::of("group id", text)) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<name>-<pid>-<boot nonce>`. The nonce keeps a restarted worker of the same name and pid from passing for the old one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    pub fn generate(name: &str) -> Self {
        let random = Uuid::now_v7().simple().to_string();
        let nonce = &random[random.len() - 8..];
        Self(format!("{name}-{}-{nonce}", std::process::id()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for WorkerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_parses_to_itself() {
        let id = JobId::generate();
        assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let hex = Uuid::now_v7().simple().to_string();
        for text in ["", "job_", "job_12", &hex, &format!("job_{}", hex.to_uppercase()), &format!("job_{{{hex}}}")] {
            assert!(JobId::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_group_is_no_job() {
        let (group, job) = (GroupId::generate(), JobId::generate());
        assert_eq!(GroupId::parse(group.as_str()), Ok(group.clone()));
        assert!(JobId::parse(group.as_str()).is_err() && GroupId::parse(job.as_str()).is_err());
    }

    #[test]
    fn two_workers_of_one_name_differ() {
        assert_ne!(WorkerId::generate("w"), WorkerId::generate("w"));
    }
}
