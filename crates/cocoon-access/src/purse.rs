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
    /// or the proxy went away; and what proxies charged beyond what was set aside. Counted as spent.
    pub unsettled_nanoton: u64,
    /// That part of it that is contained in [`Self::today`].
    #[serde(default, rename = "unsettled_today_nanoton")]
    pub unsettled_today: u64,
}

/// As what an attempt was counted when its cost became known. Amounts in nanoton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub(crate) held: u64,
    pub(crate) cost: u64,
    pub(crate) day: Day,
}

impl Spending {
    /// What was stored, by a process that is no more: what it had set aside is counted as spent.
    pub(crate) fn revived(mut self) -> Self {
        let open = std::mem::take(&mut self.reserved);
        self.add(open, 0, true);
        self
    }

    /// As of this day.
    pub(crate) fn on(mut self, day: Day) -> Self {
        // Days never go back: what was spent counts on the day on which it is known.
        if day > self.day {
            (self.day, self.today, self.unsettled_today) = (day, 0, 0);
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

    pub(crate) fn settle(&mut self, held: u64, cost: u64, unsettled: bool, day: Day) -> Settled {
        *self = self.on(day);
        self.reserved = self.reserved.saturating_sub(held);
        let cost = self.add(cost, if unsettled { 0 } else { held }, true);
        Settled { held, cost, day: self.day }
    }

    /// What was counted as spent turned out to be something else: how much, as far as it can be counted.
    pub(crate) fn correct(&mut self, from: Settled, to: u64, day: Day) -> u64 {
        *self = self.on(day);
        let is_today = from.day == self.day;
        self.total = self.total.saturating_sub(from.cost);
        if is_today {
            self.today = self.today.saturating_sub(from.cost);
        }
        self.add(to, from.held, is_today)
    }

    /// What was counted as spent without an agreed cost is given back.
    pub(crate) fn forgive(&mut self) {
        self.total = self.total.saturating_sub(std::mem::take(&mut self.unsettled_nanoton));
        self.today = self.today.saturating_sub(std::mem::take(&mut self.unsettled_today));
    }

    /// Counts a cost as spent, and what is more than `agreed` as unsettled. As much as fits into the sum, and says how much
    /// that is: so all of it can be taken back.
    fn add(&mut self, cost: u64, agreed: u64, today: bool) -> u64 {
        let cost = cost.min(u64::MAX - self.total);
        let unsettled = cost.saturating_sub(agreed);
        self.total += cost;
        self.unsettled_nanoton = self.unsettled_nanoton.saturating_add(unsettled);
        if today {
            self.today = self.today.saturating_add(cost);
            self.unsettled_today = self.unsettled_today.saturating_add(unsettled);
        }
        cost
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

    #[test]
    fn what_is_forgiven_of_another_day_makes_no_room_on_this_one() {
        let died = Spending { total: 10, today: 10, day: day(1), reserved: 5, ..Spending::default() };
        let mut spending = died.revived();
        spending.settle(4, 4, false, day(2));
        spending.settle(2, 2, true, day(2));
        assert_eq!((spending.unsettled_nanoton, spending.unsettled_today), (7, 2));
        spending.forgive();
        assert_eq!((spending.total, spending.today, spending.unsettled_nanoton), (14, 4, 0));
        spending.forgive();
        assert_eq!((spending.total, spending.today), (14, 4));
    }

    #[test]
    fn a_last_word_after_midnight_changes_the_sum_and_not_the_new_day() {
        let mut spending = Spending::default();
        let settled = spending.settle(50, 40, false, day(1));
        spending.settle(30, 30, false, day(2));
        assert_eq!(spending.correct(settled, 10, day(2)), 10);
        assert_eq!((spending.total, spending.today), (40, 30));
    }

    #[test]
    fn what_is_charged_beyond_what_was_set_aside_can_be_forgiven() {
        let mut spending = Spending { total: 7, today: 7, day: day(1), ..Spending::default() };
        spending.settle(50, 80, false, day(1));
        let settled = spending.settle(50, 40, false, day(1));
        spending.correct(settled, u64::MAX, day(1));
        assert_eq!((spending.total, spending.today), (u64::MAX, u64::MAX));
        spending.forgive();
        assert_eq!((spending.total, spending.today), (7 + 50 + 50, 7 + 50 + 50));
    }

    proptest! {
        #[test]
        fn whatever_is_said_first_the_last_words_are_the_sum(
            before in 0_u64..1000,
            words in prop::collection::vec((0_u64..=1000, 0_u64..3000, 0_u64..2), 1..50),
        ) {
            let mut spending = Spending { total: before, today: before, ..Spending::default() };
            let (mut today, mut on_last_day) = (0, before);
            let mut settled = Vec::new();
            for (claimed, charged, days) in words {
                today += days;
                on_last_day = if days == 0 { on_last_day + charged } else { charged };
                settled.push((spending.settle(1000, claimed, false, day(today)), charged));
            }
            let mut total = before;
            for (first, last) in settled {
                total += last;
                spending.correct(first, last, day(today));
            }
            prop_assert_eq!((spending.total, spending.today), (total, on_last_day));
        }

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
