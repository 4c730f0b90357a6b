//! What a cloud must answer: trait, typed errors, scripted fake
