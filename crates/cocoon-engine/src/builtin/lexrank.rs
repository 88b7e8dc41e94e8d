//! Ranking sentences by LexRank and choosing among them by maximal marginal relevance.
//!
//! - LexRank (continuous): G. Erkan and D. R. Radev, "LexRank: Graph-based Lexical Centrality as Salience in Text
//!   Summarization", Journal of Artificial Intelligence Research 22, 2004: sentences vote for the sentences that they
//!   resemble, by idf-modified cosine (their equation 1); the votes settle by power iteration.
//! - As in TextRank (R. Mihalcea and P. Tarau, "TextRank: Bringing Order into Texts", EMNLP 2004) a sentence does not
//!   vote for itself, the damping factor is 0.85, and the idf comes from the text itself.
//! - Maximal marginal relevance: J. Carbonell and J. Goldstein, SIGIR 1998.
//!
//! The same input gives the same ranks, to the bit: no hash order is ever observed.

use super::summary::Cancelled;
use super::tokens;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// The chance that a vote follows the graph; with the rest it falls on any sentence alike.
const DAMPING: f64 = 0.85;
/// Power iteration ends when all ranks together move less than this, or after [`MAX_ROUNDS`].
const CONVERGED: f64 = 1e-6;
/// The most rounds of the power iteration; the error shrinks by [`DAMPING`] in each.
const MAX_ROUNDS: usize = 100;
/// How much rank weighs against being new, when choosing.
const RELEVANCE: f64 = 0.7;

/// Sentences with their likeness to each other.
pub(super) struct Graph {
    size: usize,
    /// Idf-modified cosine of each pair, row by row; zero on the diagonal.
    likeness: Vec<f64>,
}

impl Graph {
    /// Compares all sentences with each other: time and memory grow with the square of their number.
    pub(super) fn new(sentences: &[&str], cancel: &AtomicBool) -> Result<Self, Cancelled> {
        let size = sentences.len();
        let vectors = vectors(sentences);
        let mut likeness = vec![0.0; size * size];
        for row in 0..size {
            if cancel.load(Ordering::Relaxed) {
                return Err(Cancelled);
            }
            for column in 0..row {
                let cosine = dot(&vectors[row], &vectors[column]);
                likeness[row * size + column] = cosine;
                likeness[column * size + row] = cosine;
            }
        }
        Ok(Self { size, likeness })
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.likeness[row * self.size..(row + 1) * self.size]
    }

    /// The LexRank of each sentence; they sum up to one.
    pub(super) fn ranks(&self) -> Vec<f64> {
        let even = 1.0 / self.size.max(1) as f64;
        let totals: Vec<f64> = (0..self.size).map(|row| self.row(row).iter().sum()).collect();
        let mut ranks = vec![even; self.size];
        for _ in 0..MAX_ROUNDS {
            let shares: Vec<f64> = ranks
                .iter()
                .zip(&totals)
                .map(|(rank, total)| if *total > 0.0 { rank / total } else { 0.0 })
                .collect();
            // A sentence like no other votes for all alike.
            let stray: f64 =
                ranks.iter().zip(&totals).filter(|(_, total)| **total <= 0.0).map(|(rank, _)| rank).sum();
            let floor = even * (1.0 - DAMPING + DAMPING * stray);
            let next: Vec<f64> = (0..self.size)
                .map(|row| {
                    floor + DAMPING * self.row(row).iter().zip(&shares).map(|(w, s)| w * s).sum::<f64>()
                })
                .collect();
            let moved: f64 = next.iter().zip(&ranks).map(|(a, b)| (a - b).abs()).sum();
            ranks = next;
            if moved < CONVERGED {
                break;
            }
        }
        ranks
    }

    /// Up to `count` sentences, the best first: each time the one with the most rank and the least likeness to those
    /// already chosen. Ties go to the earlier sentence.
    pub(super) fn choose(&self, scores: &[f64], count: usize) -> Vec<usize> {
        let best = scores.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let mut nearest = vec![0.0_f64; self.size];
        let mut open: Vec<usize> = (0..self.size).collect();
        let mut chosen = Vec::new();
        let worth =
            |at: usize, nearest: &[f64]| RELEVANCE * scores[at] / best - (1.0 - RELEVANCE) * nearest[at];
        while chosen.len() < count {
            let first_best = open
                .iter()
                .copied()
                .enumerate()
                .reduce(|a, b| if worth(b.1, &nearest) > worth(a.1, &nearest) { b } else { a });
            let Some((place, pick)) = first_best else { break };
            open.remove(place);
            chosen.push(pick);
            for (near, likeness) in nearest.iter_mut().zip(self.row(pick)) {
                *near = near.max(*likeness);
            }
        }
        chosen
    }
}

/// One sentence as (term, weight) by rising term, of length one unless it has no terms.
type Vector = Vec<(usize, f64)>;

/// Weighs terms by their count in the sentence and by idf, `ln((N + 1) / n)` for a term in `n` of `N` sentences, so a
/// word that is everywhere says nearly nothing: no lists of stop words are needed for any language.
fn vectors(sentences: &[&str]) -> Vec<Vector> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut spread: Vec<usize> = Vec::new();
    let mut bags: Vec<Vec<(usize, f64)>> = Vec::with_capacity(sentences.len());
    for sentence in sentences {
        let mut ids: Vec<usize> = Vec::new();
        for term in tokens::terms(sentence) {
            let next = numbers.len();
            ids.push(*numbers.entry(term).or_insert(next));
        }
        spread.resize(numbers.len(), 0);
        ids.sort_unstable();
        let bag: Vec<(usize, f64)> =
            ids.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as f64)).collect();
        for (id, _) in &bag {
            spread[*id] += 1;
        }
        bags.push(bag);
    }
    let all = sentences.len() as f64 + 1.0;
    for bag in &mut bags {
        for (id, weight) in bag.iter_mut() {
            *weight *= (all / spread[*id] as f64).ln();
        }
        let length = bag.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
        if length > 0.0 {
            bag.iter_mut().for_each(|(_, weight)| *weight /= length);
        }
    }
    bags
}

fn dot(a: &Vector, b: &Vector) -> f64 {
    let (mut left, mut right, mut sum) = (0, 0, 0.0);
    while let (Some((x, weight)), Some((y, other))) = (a.get(left), b.get(right)) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => left += 1,
            std::cmp::Ordering::Greater => right += 1,
            std::cmp::Ordering::Equal => {
                sum += weight * other;
                left += 1;
                right += 1;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn graph(sentences: &[&str]) -> Graph {
        Graph::new(sentences, &AtomicBool::new(false)).ok().unwrap()
    }

    #[test]
    fn ranks_sum_up_to_one_and_the_central_sentence_leads() {
        let graph = graph(&["red fish swim", "blue fish sleep", "red and blue fish", "cars rust"]);
        let ranks = graph.ranks();
        assert!((ranks.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{ranks:?}");
        assert_eq!(graph.choose(&ranks, 1), [2], "{ranks:?}");
        assert!(ranks[3] < ranks[0] && ranks[3] < ranks[1], "{ranks:?}");
    }

    #[test]
    fn ties_go_to_the_earlier_sentence() {
        let graph = graph(&["alpha", "beta", "gamma"]);
        assert_eq!(graph.choose(&graph.ranks(), 3), [0, 1, 2]);
    }

    #[test]
    fn a_repetition_is_chosen_late() {
        let graph =
            graph(&["red fish swim far", "red fish swim fast", "red birds sing", "old birds sing far"]);
        let chosen = graph.choose(&[1.0, 0.9, 0.8, 0.3], 2);
        assert_eq!(chosen, [0, 2]);
    }

    #[test]
    fn no_sentences_have_no_ranks() {
        let graph = graph(&[]);
        assert!(graph.ranks().is_empty());
        assert!(graph.choose(&[], 3).is_empty());
    }

    #[test]
    fn a_cancelled_comparison_stops() {
        assert!(Graph::new(&["a", "b"], &AtomicBool::new(true)).is_err());
    }
}
