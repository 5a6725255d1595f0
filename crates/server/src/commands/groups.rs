//! What the commands share about groups: the jobs of one request, as a table.

use client::Client;
use serde_json::{Value, json};

use super::watch;
use crate::report::Failure;

pub fn is_group(id: &str) -> bool {
    id.starts_with("group_")
}

/// The group and its jobs, as they were made.
pub fn listed(group: &Value) -> String {
    let rows = jobs(group).iter().map(|job| vec![text(&job["id"]), text(&job["variant"])]).collect();
    format!("{}\n{}", text(&group["id"]), aligned(rows))
}

/// Watches every job to its end, and shows how the variants ended.
pub async fn follow(client: &Client, id: &str, as_json: bool) -> Result<(), Failure> {
    let told = |error| Failure::client(error, as_json);
    let group = client.group(id).await.map_err(told)?;
    for job in jobs(&group) {
        if !as_json {
            eprintln!("variant {}: job {}", text(&job["variant"]), text(&job["id"]));
        }
        watch::to_the_end(client, &text(&job["id"]), as_json).await?;
    }
    let group = client.group(id).await.map_err(told)?;
    if as_json {
        println!("{}", json!({"event": "group", "data": group}));
    } else {
        println!("{}", table(&group));
    }
    match group["status"].as_str() {
        Some("succeeded") => Ok(()),
        status => Err(Failure::failed(format!("group {id} {}", status.unwrap_or("did not end well")))),
    }
}

/// A line for each variant: its name, what it sets, how it ended, and where the model is or why there is none.
fn table(group: &Value) -> String {
    let columns: Vec<String> = group["parameters"].as_array().into_iter().flatten().map(text).collect();
    let head = ["variant"].into_iter().map(str::to_owned).chain(columns.iter().cloned());
    let mut rows: Vec<Vec<String>> = vec![head.chain(["status".to_owned(), "result".to_owned()]).collect()];
    for job in jobs(group) {
        let cell = |name: &String| job["parameters"].get(name).map_or_else(|| "-".to_owned(), text);
        let mut row = vec![text(&job["variant"])];
        row.extend(columns.iter().map(cell));
        row.push(text(&job["status"]));
        row.push(text(if job["uri"].is_null() { &job["error"]["message"] } else { &job["uri"] }));
        rows.push(row);
    }
    aligned(rows)
}

pub fn aligned(rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| format!("{cell:0$}", width(i).unwrap_or(0)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub fn jobs(group: &Value) -> &[Value] {
    group["jobs"].as_array().map_or(&[], Vec::as_slice)
}

/// A value as a cell shows it.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_column_for_each_value_that_varies() {
        let group = json!({"parameters": ["t", "b.weight"], "jobs": [
            {"variant": "mild", "parameters": {"t": 0.3}, "status": "succeeded", "uri": "file:///x/mild"},
            {"variant": "strong", "parameters": {"t": [0, 1], "b.weight": 2}, "status": "failed", "uri": null,
                "error": {"message": "the disk is full"}},
        ]});
        assert_eq!(
            table(&group),
            "variant  t      b.weight  status     result\n\
             mild     0.3    -         succeeded  file:///x/mild\n\
             strong   [0,1]  2         failed     the disk is full"
        );
    }
}
