//! What was measured, as tables in Markdown and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A column: its name in tables, its name in JSON, and the decimals that a table shows.
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str, pub(crate) usize);

/// A table of numbers.
pub(crate) struct Table {
    title: String,
    columns: &'static [Column],
    /// A row without a number somewhere has none to give there.
    rows: Vec<(String, Vec<Option<f64>>)>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &'static [Column]) -> Self {
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row: numbers in the order of the columns.
    pub(crate) fn row(&mut self, name: impl Into<String>, numbers: impl IntoIterator<Item = Option<f64>>) {
        self.rows.push((name.into(), numbers.into_iter().collect()));
    }

    fn text(&self) -> String {
        let heads: Vec<_> = self.columns.iter().map(|column| column.0).collect();
        let rule = " ---: |".repeat(heads.len());
        let mut text = format!("### {}\n\n| | {} |\n| --- |{rule}\n", self.title, heads.join(" | "));
        for (name, numbers) in &self.rows {
            let cells: Vec<_> =
                self.columns.iter().zip(numbers).map(|(column, number)| cell(*number, column.2)).collect();
            // Writing to a text cannot fail.
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(name, numbers)| {
            let mut row = Map::new();
            row.insert("name".to_owned(), json!(name));
            for (column, number) in self.columns.iter().zip(numbers) {
                row.insert(column.1.to_owned(), json!(number));
            }
            Value::Object(row)
        });
        json!({"title": self.title, "rows": rows.collect::<Vec<_>>()})
    }
}

fn cell(number: Option<f64>, decimals: usize) -> String {
    number.map_or_else(String::new, |number| format!("{number:.decimals$}"))
}

/// All tables.
#[derive(Default)]
pub(crate) struct Report(Vec<Table>);

impl Report {
    pub(crate) fn add(&mut self, table: Table) {
        self.0.push(table);
    }

    pub(crate) fn tables(&self) -> String {
        self.0.iter().map(Table::text).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn json(&self) -> Value {
        json!({"tables": self.0.iter().map(Table::json).collect::<Vec<_>>()})
    }
}
