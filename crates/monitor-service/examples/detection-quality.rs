//! Prints how well anomalies are found in the labelled set (`data/labelled.csv`).
//!
//! `cargo run --example detection-quality` measures; with `generate` it writes the set anew to standard output, the same
//! every time. `+` means: with changes of level.

#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::f64::consts::TAU;

use monitor_service::analysis::quality::{KINDS, Row, measure, read};

const SET: &str = include_str!("../data/labelled.csv");
const DAY: usize = 288;
const DAYS: usize = 7;
fn main() -> Result<(), String> {
    if std::env::args().nth(1).as_deref() == Some("generate") {
        generate();
        return Ok(());
    }
    let set = read(SET)?;
    println!("{} series of {DAYS} days at 5 min; the first 3 days are for learning", set.len());
    println!("{:<14} {:>9} {:>7} {:>12}   recall by kind", "detector", "precision", "recall", "false/s/day");
    for Row { detector, all, by_kind } in measure(&set) {
        let kinds = by_kind.iter().map(|(kind, score)| format!("{kind} {:.2}", score.recall()));
        println!(
            "{detector:<14} {:>9.3} {:>7.3} {:>12.4}   {}",
            all.precision(),
            all.recall(),
            all.false_per_day(),
            kinds.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// SplitMix64: the set is the same wherever it is made.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.roll().max(1e-12).ln()).sqrt() * (TAU * self.roll()).cos()
    }

    fn within(&mut self, from: usize, to: usize) -> usize {
        from + (self.roll() * (to - from) as f64) as usize
    }
}

fn generate() {
    println!(
        "# name,kind,steps of a day,wrong stretches; then its figures. Made by examples/detection-quality.rs."
    );
    let mut dice = Dice(42);
    for kind in KINDS.into_iter().chain(["clean"]) {
        for (index, amplitude) in [0.0, 20.0, 20.0, 35.0].into_iter().enumerate() {
            // A flat series has no season that could change.
            let amplitude = if kind == "season" { f64::max(amplitude, 20.0) } else { amplitude };
            let (values, wrong) = series(kind, amplitude, &mut dice);
            let wrong: Vec<String> = wrong.iter().map(|(from, to)| format!("{from}-{to}")).collect();
            println!("{kind}-{index},{kind},{DAY},{}", wrong.join(" "));
            let figure = |value: &Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
            println!("{}", values.iter().map(figure).collect::<Vec<_>>().join(","));
        }
    }
}

type Stretch = (usize, usize);

fn series(kind: &str, amplitude: f64, dice: &mut Dice) -> (Vec<Option<f64>>, Vec<Stretch>) {
    let end = DAY * DAYS;
    let begin = dice.within(DAY * 4, DAY * 5);
    let mut noise = 0.0;
    let mut values: Vec<Option<f64>> = (0..end)
        .map(|step| {
            noise = 0.3 * noise + dice.normal();
            let day = step as f64 / DAY as f64 * TAU;
            let grown = if kind == "season" && step >= begin { 1.8 } else { 1.0 };
            Some(100.0 + amplitude * grown * (day.sin() + 0.3 * (2.0 * day).cos()) + noise)
        })
        .collect();
    let mut add = |from: usize, to: usize, by: &dyn Fn(usize) -> f64| {
        for (step, value) in values.iter_mut().enumerate().take(to).skip(from) {
            *value = value.map(|value| value + by(step));
        }
    };
    let wrong = match kind {
        "spike" => {
            let starts = [begin, begin + DAY / 2 + 7, begin + DAY + 31];
            let mut wrong = Vec::new();
            for start in starts {
                let (length, height) = (dice.within(1, 4), 9.0 + 6.0 * dice.roll());
                let height = if dice.roll() < 0.3 { -height } else { height };
                add(start, start + length, &|_| height);
                wrong.push((start, start + length));
            }
            wrong
        }
        "level" => {
            add(begin, end, &|_| 12.0);
            vec![(begin, end)]
        }
        "drift" => {
            let hours = DAY / 2;
            add(begin, end, &|step| 25.0 * ((step - begin) as f64 / hours as f64).min(1.0));
            vec![(begin, end)]
        }
        "season" => vec![(begin, end)],
        "missing" => {
            let length = dice.within(6, 24);
            for value in &mut values[begin..begin + length] {
                *value = None;
            }
            vec![(begin, begin + length)]
        }
        _ => Vec::new(),
    };
    (values, wrong)
}
