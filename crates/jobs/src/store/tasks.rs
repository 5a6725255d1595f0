//! The parts of a job that can be claimed alone. For now a job is one task, which shares its status.

use super::statement::query;
use super::write::Write;
use crate::{JobId, Result, Status};

const INSERT: &str = "insert into tasks (job_id, idx, kind, status) values ($1, 0, 'merge', 'queued')";

const SET_STATUS: &str = "update tasks set status = $2 where job_id = $1";

pub(super) async fn insert(write: &mut Write<'_>, id: &JobId) -> Result<()> {
    query(INSERT).bind(id.as_str()).execute(write.connection()).await?;
    Ok(())
}

pub(super) async fn set_status(write: &mut Write<'_>, id: &JobId, status: Status) -> Result<()> {
    query(SET_STATUS).bind(id.as_str()).bind(status.as_str()).execute(write.connection()).await?;
    Ok(())
}
