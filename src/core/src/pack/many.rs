//! Column generation where there are hundreds of kinds of pods.
//!
//! What [`super::columns`] does for some hundred rows, one content per machine and look, would take thousands of looks
//! here. So each look takes the best content *with each kind of pod* from a table ([`super::grid`]), and the master problem is
//! told from the start what holds for the best prices: that a pod is worth no less than what fits into its place.

use std::{cmp::Reverse, collections::BTreeMap};

use fixedbitset::FixedBitSet;

use super::{
    columns::{Aim, Budget, Choice, Generated, Searches, worth_of},
    fit::times,
    grid::{Axes, Place},
    knapsack::Knapsack,
    mix::Mix,
    purchase::Purchase,
};

/// Kinds of pods beyond which a look for one content after the other takes too long.
const ITEMS_MIN: usize = 200;
/// Looks between the best opinion so far and the master's prices: tenths of the former.
const BETWEEN: [i64; 3] = [6, 3, 0];
/// Contents worth this part of the price between the two opinions, in thousandths, may be worth it at the master's.
const PROMISING_PERMILLE: i64 = 970;
/// When the master's prices are so near to what is proven, as a part of it, no better ones are sought.
const NEAR: i128 = 2_000;
/// Steps for each wanted kind of pod without which all this is not worth beginning.
const STEPS_PER_ITEM: u64 = 2_000;
/// Contents found at which the master problem has its turn again.
const ENOUGH: usize = 20;
/// A resource that costs less than this part of the machine is not minded.
const CHEAP: f64 = 200.0;
/// Steps kept for what exchanges would have to be contents.
const CLOSING_PERCENT: u64 = 30;
/// A round that makes less of a difference than this part calls for a thorough look.
const SLOW: i128 = 2_500;
/// The same below which exchanges help no more.
const FLAT: i128 = 50_000;
/// Rounds that are slow because what is known at first is of little use.
const ROUNDS_MIN: usize = 5;
/// Steps of one proof.
const PROOF_STEPS_MAX: u64 = 20_000;
/// Rounds of finding prices of resources for a proof.
const TIGHT_ROUNDS: usize = 16;
/// Nodes of a thorough look at one machine.
const NODES_MAX: u32 = 2_000;
/// What fits into the place of a pod must be worth more by this part to be news.
const NEWS: i64 = 1_000;

/// Rooms about equally large that admit the same pods.
struct Group {
    /// Shapes, or items that could make place.
    ids: Vec<u32>,
    /// What may come there.
    items: Vec<u32>,
}

struct Groups {
    small: Vec<Group>,
    /// Shapes that hold very many pods.
    large: Vec<Group>,
    /// Places of single pods.
    pods: Vec<Group>,
}

impl Groups {
    fn of(mix: &Mix, counts: &[u32], axes: Axes) -> Self {
        let n_kinds = mix.kinds.iter().max().map_or(0, |k| *k as usize + 1);
        let mut admits: Vec<FixedBitSet> = vec![FixedBitSet::with_capacity(mix.n_shapes()); n_kinds];
        let mut small: BTreeMap<_, Group> = BTreeMap::new();
        let mut large: BTreeMap<_, Group> = BTreeMap::new();
        for shape in 0..mix.n_shapes() {
            let mut kinds: Vec<u32> = mix.takes[shape].iter().map(|i| mix.kinds[*i as usize]).collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds.iter().for_each(|kind| admits[*kind as usize].insert(shape));
            let room = mix.room(shape);
            let has: Vec<bool> = room.iter().map(|amount| *amount > 0).collect();
            let group = if axes.is_small(room) {
                small
                    .entry((kinds, has, axes.class(room)))
                    .or_insert_with(Group::new)
            } else {
                large.entry((kinds, has)).or_insert_with(Group::new)
            };
            group.ids.push(shape as u32);
            group.items.extend(&mix.takes[shape]);
        }
        let wanted = |item: &u32| counts[*item as usize] > 0;
        let mut pods: BTreeMap<_, Group> = BTreeMap::new();
        for item in (0..mix.n_items() as u32).filter(wanted) {
            let kind = mix.kinds[item as usize];
            let key = (kind, axes.class(mix.request(item as usize)));
            pods.entry(key).or_insert_with(Group::new).ids.push(item);
        }
        for ((kind, _), group) in &mut pods {
            // Wherever the pod may run, these may run too, in any number.
            let everywhere =
                |i: &u32| admits[*kind as usize].is_subset(&admits[mix.kinds[*i as usize] as usize]);
            let uncapped = |i: &u32| mix.caps[*i as usize] >= mix.counts[*i as usize];
            let items = (0..mix.n_items() as u32).filter(|i| everywhere(i) && uncapped(i));
            group.items.extend(items);
        }
        let finished = |mut group: Group| {
            group.items.retain(wanted);
            group.items.sort_unstable();
            group.items.dedup();
            group
        };
        Self {
            small: small.into_values().map(finished).collect(),
            large: large.into_values().map(finished).collect(),
            pods: pods.into_values().map(finished).collect(),
        }
    }
}

impl Group {
    fn new() -> Self {
        Self {
            ids: Vec::new(),
            items: Vec::new(),
        }
    }
}

/// Whether there are so many kinds of pods, and steps for them, that this is the way.
pub(super) fn worthwhile(items: usize, budget: &Budget) -> bool {
    items > ITEMS_MIN && budget.left >= STEPS_PER_ITEM * items as u64
}

/// See [`super::columns::generate`].
pub(super) fn generate(
    mix: &Mix,
    searches: &mut Searches<'_>,
    counts: &[u32],
    known: &[Choice],
    center: &[i64],
    aim: Aim,
    budget: &mut Budget,
) -> Generated {
    let axes = Axes::of(mix, &searches.unit_prices);
    let groups = Groups::of(mix, counts, axes);
    let mut purchase = Purchase::new(mix, counts, known);
    let mut out = Generated::default();
    for group in &groups.pods {
        substitutes(mix, group, &mut purchase);
    }
    let mut last = center.to_vec();
    let mut exchanging = true;
    let closing = budget.left / 100 * CLOSING_PERCENT;
    let mut before_that = i128::MAX;
    let mut smooth = last.clone();
    // What was looked at thoroughly last, and what it proves.
    let mut center = None;
    let mut proven = 0;
    // What values prove when some machine holds pods worth `worst` times its price.
    let proof = |values: &[i64], worst: (i64, i64)| -> i128 {
        let worth = |(v, n): (&i64, &u32)| i128::from(*v) * i128::from(*n);
        values.iter().zip(counts).map(worth).sum::<i128>() * i128::from(worst.1) / i128::from(worst.0.max(1))
    };
    for round in 0.. {
        out.duals = purchase.solve(budget);
        if budget.left == 0 {
            break;
        }
        let floors = purchase.floors();
        let mut found = 0;
        let before = last.clone();
        for part in BETWEEN {
            let between = before.iter().zip(&out.duals).zip(counts);
            let values: Vec<i64> = between
                .map(|((c, d), n)| {
                    if *n > 0 {
                        c / 10 * part + d / 10 * (10 - part)
                    } else {
                        0
                    }
                })
                .collect();
            last.clone_from(&values);
            if part == BETWEEN[0] {
                smooth.clone_from(&values);
            }
            let new = look(
                mix,
                searches,
                axes,
                &groups,
                counts,
                &values,
                &out.duals,
                &floors,
                &mut purchase,
                budget,
            );
            found += new;
            if found > ENOUGH || budget.left == 0 {
                break;
            }
        }
        let bought = proof(&out.duals, (1, 1));
        let slow = before_that - bought < bought / SLOW && round >= ROUNDS_MIN;
        if (found <= ENOUGH || slow) && budget.left > 0 {
            // What was found last is nearer to the best opinion than the master's prices, unless that finds nothing more.
            let values = if found > ENOUGH { &smooth } else { &out.duals };
            let (new, worst) = search(
                searches,
                aim,
                counts,
                values,
                &out.duals,
                &floors,
                &mut purchase,
                budget,
            );
            found += new;
            if worst.0 < i64::MAX {
                proven = proof(values, worst);
                center = Some(values.clone());
            }
        }
        if exchanging {
            for group in &groups.pods {
                found += exchanges(mix, axes, group, &out.duals, &mut purchase, budget);
            }
        }
        let near = bought - proven <= bought / NEAR;
        let flat = slow && before_that - bought < bought / FLAT;
        let late = aim == Aim::Buy && (flat || exchanging && budget.left < closing);
        if found == 0 || near || late {
            if !exchanging || aim == Aim::Worths {
                break;
            }
            exchanging = false;
            purchase.close_exchanges();
        }
        before_that = bought;
    }
    out.worths = center.unwrap_or(smooth);
    (out.columns, out.solution) = purchase.outcome();
    out
}

/// Makes contents known that are worth more than their floor at the duals, found with these values. How many, and the
/// most that a machine was found to hold for its floor, at least one.
fn look(
    mix: &Mix,
    searches: &mut Searches<'_>,
    axes: Axes,
    groups: &Groups,
    counts: &[u32],
    values: &[i64],
    duals: &[i64],
    floors: &[i64],
    purchase: &mut Purchase<'_>,
    budget: &mut Budget,
) -> usize {
    let mut found = 0;
    let knapsack = &mut searches.knapsack;
    for (group, large) in groups
        .small
        .iter()
        .map(|g| (g, false))
        .chain(groups.large.iter().map(|g| (g, true)))
    {
        if budget.left == 0 {
            break;
        }
        for alike in Alike::all(mix, knapsack, axes, group, counts, values, floors) {
            let net = alike.net(mix, axes, values);
            let work = &mut knapsack.work;
            let fillings = if large {
                axes.large(mix, &group.items, &alike.places, counts, values, &net, work)
            } else {
                let places: Vec<Place> = alike.places.into_iter().map(|(place, _)| place).collect();
                axes.fill(mix, &group.items, &places, values, &net, PROMISING_PERMILLE, work)
            };
            for filling in fillings {
                let floor = floors[filling.id as usize];
                if worth_of(&filling.pattern, duals) > floor {
                    found += usize::from(purchase.add((filling.id, filling.pattern)));
                }
            }
        }
        budget.spend(knapsack.steps());
    }
    found
}

/// The same by searching one machine after the other, as exactly as there is time for; the most that one can hold for its
/// floor, proven.
fn search(
    searches: &mut Searches<'_>,
    aim: Aim,
    counts: &[u32],
    values: &[i64],
    duals: &[i64],
    floors: &[i64],
    purchase: &mut Purchase<'_>,
    budget: &mut Budget,
) -> (usize, (i64, i64)) {
    let mut found = 0;
    let mut worst = (1, 1);
    let mut unproven: Vec<(f64, u32)> = Vec::new();
    for (shape, floor) in floors.iter().enumerate() {
        let best = searches.knapsack.best(shape, values, counts, *floor, NODES_MAX);
        if best.upper > *floor {
            unproven.push((best.upper as f64 / *floor as f64, shape as u32));
        }
        if worth_of(&best.pattern, duals) > *floor {
            found += usize::from(purchase.add((shape as u32, best.pattern)));
        }
        budget.spend(searches.steps());
    }
    if aim == Aim::Buy {
        return (found, (i64::MAX, 1));
    }
    unproven.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, shape) in unproven {
        if budget.left == 0 {
            return (found, (i64::MAX, 1));
        }
        let at = shape as usize;
        let floor = floors[at];
        let mut upper = searches.knapsack.tighten(at, values, counts, floor, TIGHT_ROUNDS);
        if upper > floor {
            let steps = budget.left.min(PROOF_STEPS_MAX);
            let doubt = searches.knapsack.by_two(at, values, counts, floor, steps);
            upper = upper.min(doubt.upper);
            let choice = (shape, doubt.content);
            if upper > floor && doubt.fits {
                found += usize::from(worth_of(&choice.1, duals) > floor && purchase.add(choice));
            } else if upper > floor {
                let cost = searches.knapsack.mix.prices[at] - doubt.excess;
                found += usize::from(purchase.suppose(&choice, cost, duals));
            }
        }
        if i128::from(upper) * i128::from(worst.1) > i128::from(worst.0) * i128::from(floor) {
            worst = (upper, floor);
        }
        budget.spend(searches.steps());
    }
    (found, worst)
}

/// Rooms where what the tables do not know costs about the same.
#[derive(Default)]
struct Alike {
    /// Most that one of them could hold, cut pods included, as a part of its floor; and the prices of resources there.
    ratio: f64,
    prices: Vec<f64>,
    /// The rooms, each with its own prices.
    places: Vec<(Place, Vec<f64>)>,
}

impl Alike {
    /// The rooms of a group that may hold enough.
    fn all(
        mix: &Mix,
        knapsack: &mut Knapsack<'_>,
        axes: Axes,
        group: &Group,
        counts: &[u32],
        values: &[i64],
        floors: &[i64],
    ) -> Vec<Self> {
        let mut all: BTreeMap<Vec<u32>, Self> = BTreeMap::new();
        for shape in &group.ids {
            let (at, floor) = (*shape as usize, floors[*shape as usize]);
            let promising = floor / 1000 * PROMISING_PERMILLE;
            let worth = knapsack.tighten(at, values, counts, promising, 0);
            if worth <= promising {
                continue;
            }
            let mut prices = knapsack.prices(at);
            let room = mix.room(at).to_vec();
            let others: Vec<usize> = axes.others(mix.n_res).collect();
            for r in &others {
                if prices[*r] * (room[*r] as f64) < floor as f64 / CHEAP {
                    prices[*r] = 0.0;
                }
            }
            let digits = others.iter().map(|r| 64 - (prices[*r] as u64).leading_zeros());
            let base = others.iter().map(|r| prices[*r] * room[*r] as f64).sum::<f64>() as i64;
            let alike = all.entry(digits.collect()).or_default();
            let ratio = worth as f64 / floor as f64;
            if ratio > alike.ratio {
                (alike.ratio, alike.prices) = (ratio, prices.clone());
            }
            let id = *shape;
            alike.places.push((
                Place {
                    id,
                    room,
                    floor,
                    base,
                },
                prices,
            ));
        }
        all.into_values().collect()
    }

    /// What pods are worth beside what they take of the resources that tables do not know.
    fn net(&self, mix: &Mix, axes: Axes, values: &[i64]) -> Vec<i64> {
        let net = |item: usize| {
            let others = axes.others(mix.n_res);
            let paid: f64 = others.map(|r| self.prices[r] * mix.request(item)[r] as f64).sum();
            (values[item] as f64 - paid).max(0.0) as i64
        };
        (0..mix.n_items()).map(net).collect()
    }
}

/// Makes known which pods may stand in the place of each: the largest that are smaller.
fn substitutes(mix: &Mix, group: &Group, purchase: &mut Purchase<'_>) {
    let request = |item: &u32| mix.request(*item as usize);
    let within = |a: &u32, b: &u32| request(a).iter().zip(request(b)).all(|(a, b)| a <= b);
    for item in &group.ids {
        let smaller = group.items.iter().filter(|i| *i != item && within(i, item));
        let mut smaller: Vec<u32> = smaller.copied().collect();
        // None can hold one that comes before it.
        smaller.sort_by_key(|i| (Reverse(request(i)), *i));
        let mut largest: Vec<u32> = Vec::new();
        for other in smaller {
            if !largest.iter().any(|larger| within(&other, larger)) {
                largest.push(other);
            }
        }
        for other in largest {
            purchase.exchange(*item, vec![(other, 1)]);
        }
    }
}

/// Makes known what is worth more than a pod in whose place it would fit.
fn exchanges(
    mix: &Mix,
    axes: Axes,
    group: &Group,
    duals: &[i64],
    purchase: &mut Purchase<'_>,
    budget: &mut Budget,
) -> usize {
    let place = |item: &u32| Place {
        id: *item,
        room: mix.request(*item as usize).to_vec(),
        floor: duals[*item as usize].max(1),
        base: 0,
    };
    let places: Vec<Place> = group.ids.iter().map(place).collect();
    let mut work = 0;
    let fits = |i: &u32| {
        places
            .iter()
            .any(|place| times(&place.room, mix.request(*i as usize)) > 0)
    };
    let items: Vec<u32> = group.items.iter().copied().filter(fits).collect();
    let fillings = axes.best(mix, &items, &places, duals, &mut work);
    budget.spend(work / 1000);
    let mut found = 0;
    for filling in fillings {
        let own = duals[filling.id as usize];
        let itself = filling.pattern.iter().any(|(item, _)| *item == filling.id);
        if !itself && filling.worth > own + own / NEWS {
            found += usize::from(purchase.exchange(filling.id, filling.pattern));
        }
    }
    found
}
