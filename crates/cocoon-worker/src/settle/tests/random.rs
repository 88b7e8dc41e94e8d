use std::sync::Arc;

use proptest::prelude::*;

use super::town::{Death, FEE, ONE_TON_OF_TOKENS, TON, TestProxy, Town};
use crate::settle::Settlement;

#[derive(Debug, Clone)]
enum Event {
    /// A proxy signs for so many tokens more, and shows it.
    Order(usize, u64),
    Round,
    /// A round in which the process dies as it sends.
    Death(Death),
    /// The process ends, and starts anew.
    Restart,
    /// What is under way arrives.
    Deliver,
    /// Somebody asks for a payout.
    Ask(u64),
    /// Coins come to a proxy contract.
    Refill(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let death = prop_oneof![
        Just(Death::BeforeSending),
        Just(Death::AfterSending),
        Just(Death::MessageUnderWay),
        Just(Death::MessageUnderWay),
    ];
    prop_oneof![
        4 => (0..2_usize, 1..2 * ONE_TON_OF_TOKENS).prop_map(|(proxy, more)| Event::Order(proxy, more)),
        3 => Just(Event::Round),
        3 => death.prop_map(Event::Death),
        1 => Just(Event::Restart),
        2 => Just(Event::Deliver),
        1 => (1..TON).prop_map(Event::Ask),
        1 => (0..2_usize).prop_map(Event::Refill),
    ]
}

struct Run {
    town: Town,
    proxies: [TestProxy; 2],
    signed: [u64; 2],
    settlement: Arc<Settlement>,
}

impl Run {
    async fn new() -> Self {
        let town = Town::new(20 * TON).await;
        // The second one is short of coins at first.
        let proxies = [town.proxy(1, 100 * TON).await, town.proxy(2, TON).await];
        let settlement = town.open().await;
        Self { town, proxies, signed: [0; 2], settlement }
    }

    /// As a proxy does whenever a worker connects.
    fn show(&self, proxy: usize) {
        if self.signed[proxy] > 0 {
            let channels = &self.settlement.channels;
            self.town.show(channels, &self.proxies[proxy], self.signed[proxy]).unwrap();
        }
    }

    async fn restart(&mut self) {
        self.settlement = self.town.open().await;
        (0..2).for_each(|proxy| self.show(proxy));
    }

    async fn act(&mut self, event: Event) {
        match event {
            Event::Order(proxy, more) => {
                self.signed[proxy] += more;
                self.show(proxy);
            }
            Event::Round => {
                // A message that was under way may have come first: then this round's plan is void.
                let _ = self.settlement.round().await;
            }
            Event::Death(death) => {
                *self.town.line.death.lock().unwrap() = Some(death);
                let died = tokio::select! {
                    _ = self.settlement.round() => false,
                    () = self.town.line.died.notified() => true,
                };
                *self.town.line.death.lock().unwrap() = None;
                if died {
                    self.restart().await;
                }
            }
            Event::Restart => self.restart().await,
            Event::Deliver => self.town.line.deliver().await,
            Event::Ask(from) => {
                self.settlement.pay_out(from);
            }
            Event::Refill(proxy) => self.refill(proxy).await,
        }
        let owed: u64 = self.signed.iter().map(|tokens| tokens * FEE).sum();
        let paid = self.town.paid().await;
        assert!(paid <= owed, "paid {paid} of {owed}");
    }

    async fn refill(&self, proxy: usize) {
        let to = self.proxies[proxy].contract;
        self.town.send(to, 5 * TON, None, cocoon_ton::message::Body::Empty).await;
    }

    /// In the end everybody is paid what is signed, to the nano.
    async fn end(mut self) {
        self.town.line.deliver().await;
        for _ in 0..20 {
            self.refill(1).await;
        }
        self.restart().await;
        self.settlement.pay_out(1);
        for _ in 0..3 {
            self.settlement.round().await.unwrap();
        }
        let owed: u64 = self.signed.iter().map(|tokens| tokens * FEE).sum();
        assert_eq!(self.town.paid().await, owed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_pays_more_than_the_newest_orders_and_in_the_end_they_are_paid(
        events in prop::collection::vec(event(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for event in events {
                run.act(event).await;
            }
            run.end().await;
        });
    }
}
