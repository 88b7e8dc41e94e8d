//! What a key may spend, has spent, and has set aside.

use serde::{Deserialize, Serialize};

use crate::Day;

/// What a key may spend, in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// In all.
    pub total: Option<u64>,
    /// On each UTC day.
    pub per_day: Option<u64>,
}

/// Why nothing more can be set aside. Amounts in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The budget in all does not suffice.
    Total {
        /// The budget.
        budget: u64,
        /// What is spent or set aside.
        used: u64,
    },
    /// The day's budget does not suffice.
    Day {
        /// The budget.
        budget: u64,
        /// What is spent or set aside.
        used: u64,
    },
}

/// What a key has spent, in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spending {
    /// In all.
    #[serde(rename = "total_nanoton")]
    pub total: u64,
    /// The day that [`Self::today`] is of.
    pub day: Day,
    /// On that day.
    #[serde(rename = "today_nanoton")]
    pub today: u64,
    /// Set aside for requests under way, at most what they can cost.
    #[serde(rename = "open_nanoton")]
    pub reserved: u64,
    /// Contained in the others: set aside for requests of which nobody ever said what they cost, because the process died
    /// or the proxy went away. Counted as spent.
    pub unsettled_nanoton: u64,
}

impl Spending {
    /// What was stored, by a process that is no more: what it had set aside is counted as spent.
    pub(crate) fn revived(mut self) -> Self {
        let open = std::mem::take(&mut self.reserved);
        self.total = self.total.saturating_add(open);
        self.today = self.today.saturating_add(open);
        self.unsettled_nanoton = self.unsettled_nanoton.saturating_add(open);
        self
    }

    /// As of this day.
    pub(crate) fn on(mut self, day: Day) -> Self {
        // Days never go back: what was spent counts on the day on which it is known.
        if day > self.day {
            (self.day, self.today) = (day, 0);
        }
        self
    }

    pub(crate) fn hold(&mut self, amount: u64, budget: Budget, day: Day) -> Result<(), Exhausted> {
        *self = self.on(day);
        let fits = |budget: u64, spent: u64| {
            let used = spent.saturating_add(self.reserved);
            if used.checked_add(amount).is_some_and(|sum| sum <= budget) { Ok(()) } else { Err(used) }
        };
        if let Some(budget) = budget.total {
            fits(budget, self.total).map_err(|used| Exhausted::Total { budget, used })?;
        }
        if let Some(budget) = budget.per_day {
            fits(budget, self.today).map_err(|used| Exhausted::Day { budget, used })?;
        }
        self.reserved = self.reserved.saturating_add(amount);
        Ok(())
    }

    pub(crate) fn settle(&mut self, held: u64, cost: u64, unsettled: bool, day: Day) {
        *self = self.on(day);
        self.reserved = self.reserved.saturating_sub(held);
        self.total = self.total.saturating_add(cost);
        self.today = self.today.saturating_add(cost);
        if unsettled {
            self.unsettled_nanoton = self.unsettled_nanoton.saturating_add(cost);
        }
    }

    /// What was counted as spent turned out to be something else.
    pub(crate) fn correct(&mut self, from: u64, to: u64, day: Day) {
        *self = self.on(day);
        self.total = self.total.saturating_sub(from).saturating_add(to);
        self.today = self.today.saturating_sub(from).saturating_add(to);
    }

    /// What was counted as spent without anybody's word is given back.
    pub(crate) fn forgive(&mut self) {
        let unsettled = std::mem::take(&mut self.unsettled_nanoton);
        self.total = self.total.saturating_sub(unsettled);
        self.today = self.today.saturating_sub(unsettled);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn day(number: u64) -> Day {
        crate::Moment::from_seconds(number * 86_400).day()
    }

    #[test]
    fn a_reservation_counts_until_its_cost_is_known() {
        let budget = Budget { total: Some(100), per_day: Some(60) };
        let mut spending = Spending::default();
        spending.hold(50, budget, day(1)).unwrap();
        assert_eq!(spending.hold(11, budget, day(1)), Err(Exhausted::Day { budget: 60, used: 50 }));
        spending.settle(50, 20, false, day(1));
        spending.hold(40, budget, day(1)).unwrap();
        spending.settle(40, 40, false, day(1));
        assert_eq!(spending.hold(1, budget, day(1)), Err(Exhausted::Day { budget: 60, used: 60 }));
        spending.hold(40, budget, day(2)).unwrap();
        assert_eq!(spending.hold(1, budget, day(2)), Err(Exhausted::Total { budget: 100, used: 100 }));
        assert_eq!((spending.total, spending.today, spending.reserved), (60, 0, 40));
    }

    #[test]
    fn what_was_under_way_when_a_process_died_counts_as_spent_until_it_is_forgiven() {
        let mut spending = Spending { total: 10, today: 4, reserved: 7, ..Spending::default() }.revived();
        assert_eq!(
            (spending.total, spending.today, spending.reserved, spending.unsettled_nanoton),
            (17, 11, 0, 7)
        );
        spending.forgive();
        assert_eq!((spending.total, spending.today, spending.unsettled_nanoton), (10, 4, 0));
    }

    proptest! {
        #[test]
        fn no_order_of_requests_spends_more_than_the_budget(
            total in 0_u64..2000,
            per_day in 0_u64..500,
            steps in prop::collection::vec((0_u64..200, 0_u64..=100, any::<bool>(), 0_u64..2), 1..300),
        ) {
            let budget = Budget { total: Some(total), per_day: Some(per_day) };
            let (mut spending, mut open, mut today) = (Spending::default(), Vec::<u64>::new(), 0);
            for (amount, percent, ends, days) in steps {
                today += days;
                if ends && let Some(held) = open.pop() {
                    // It may cost anything up to what was set aside, or nobody knows.
                    spending.settle(held, held * percent / 100, percent == 100, day(today));
                } else if spending.hold(amount, budget, day(today)).is_ok() {
                    open.push(amount);
                }
                prop_assert_eq!(spending.reserved, open.iter().sum::<u64>());
                prop_assert!(spending.total + spending.reserved <= total);
                prop_assert!(spending.on(day(today)).today + spending.reserved <= per_day);
                prop_assert!(spending.revived().total <= total, "a crash keeps within the budget");
            }
        }
    }
}
