//! Reads a group.

use super::statement::query;
use super::{Store, row, write::Write};
use crate::{GroupId, Job, Result};

const OF_GROUP: &str = "where group_id = $1 order by group_position";

impl Store {
    /// Its jobs in the order of the request; none for an unknown group.
    pub async fn group(&self, id: &GroupId) -> Result<Vec<Job>> {
        let rows =
            query(row::select_job(OF_GROUP, "")).bind(id.as_str()).fetch_all(&mut *self.reading().await?).await?;
        rows.iter().map(row::job).collect()
    }
}

impl Write<'_> {
    /// The jobs as this transaction sees them; no one else changes them until it ends. Always locked in the same order.
    pub(super) async fn group(&mut self, id: &GroupId) -> Result<Vec<Job>> {
        let sql = row::select_job(OF_GROUP, self.dialect().for_update());
        let rows = query(sql).bind(id.as_str()).fetch_all(self.connection()).await?;
        rows.iter().map(row::job).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        GroupId,
        testing::{new_job, on_each_database},
    };

    #[tokio::test]
    async fn a_group_has_its_jobs_in_order_and_no_others() {
        on_each_database(async |fixture| {
            fixture.enqueue(new_job()).await;
            let made = fixture.enqueue_group(&["c", "a", "b"]).await;
            fixture.enqueue_group(&["x"]).await;
            let member = made[0].member.clone().expect("of a group");
            assert_eq!(fixture.store.group(&member.group).await.unwrap(), made);
            let variants: Vec<_> = made.iter().map(|job| job.member.as_ref().unwrap().variant.as_str()).collect();
            assert_eq!(variants, ["c", "a", "b"]);
            assert!(fixture.store.group(&GroupId::generate()).await.unwrap().is_empty());
        })
        .await;
    }
}
