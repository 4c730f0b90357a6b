mod invariants;
mod notation;
mod rules;
