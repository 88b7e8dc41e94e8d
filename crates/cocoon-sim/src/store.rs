//! The proxy's durable log as the simulator keeps it: what was appended becomes durable later, and a crash may lose
//! what was not.

use cocoon_ledger::{Ledger, Record};

use crate::checks::Breach;
use crate::rng::Rng;

#[derive(Debug, Default)]
pub(crate) struct Store {
    snapshot: Option<Vec<u8>>,
    /// Records after the snapshot, the durable ones first.
    log: Vec<Record>,
    /// Position up to which everything is durable.
    durable: u64,
}

impl Store {
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), Breach> {
        for record in records {
            let last = self.log.last().map_or(self.durable, |last| last.position.max(self.durable));
            if record.position != last + 1 {
                return Err(Breach(format!("record {} was appended after record {last}", record.position)));
            }
            self.log.push(*record);
        }
        Ok(())
    }

    /// Position of the last record appended.
    pub(crate) fn appended(&self) -> u64 {
        self.log.last().map_or(self.durable, |last| last.position)
    }

    /// Makes everything up to `position` durable; gives the records that became so.
    pub(crate) fn commit(&mut self, position: u64) -> Vec<Record> {
        let before = self.durable;
        self.durable = before.max(position);
        self.log.iter().filter(|record| (before + 1..=position).contains(&record.position)).copied().collect()
    }

    /// The process dies. What was on its way to the disk may have reached it: gives the records that did.
    pub(crate) fn crash(&mut self, rng: &mut Rng) -> Vec<Record> {
        let reached = rng.range(self.durable, self.appended());
        let records = self.commit(reached);
        self.log.retain(|record| record.position <= reached);
        records
    }

    /// Replaces the durable part of the log by a snapshot.
    pub(crate) fn compact(&mut self) -> Result<(), Breach> {
        let damaged =
            |error: &dyn std::fmt::Display| Breach(format!("the durable log does not replay: {error}"));
        let mut ledger = match &self.snapshot {
            Some(snapshot) => Ledger::restore(snapshot).map_err(|error| damaged(&error))?,
            None => Ledger::new(),
        };
        for record in self.log.iter().filter(|record| record.position <= self.durable) {
            ledger.apply(record).map_err(|error| damaged(&error))?;
        }
        self.snapshot = Some(ledger.snapshot());
        self.log.retain(|record| record.position > self.durable);
        Ok(())
    }

    pub(crate) fn contents(&self) -> (Option<&[u8]>, Vec<Record>) {
        (self.snapshot.as_deref(), self.log.clone())
    }
}
