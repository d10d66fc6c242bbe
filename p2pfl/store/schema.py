"""The tables of the index: what can be asked of a history. Ids are 0x hex, ratios are millionths."""

from __future__ import annotations

# Counted up whenever a table changes: an index of another version is built again.
VERSION = 3

TABLES = """
create table meta (name text primary key, value text not null) without rowid;
create table members (
    member text primary key, name text not null, chain text not null, turn integer not null
) without rowid;
create table blocks (
    chain text not null, height integer not null, epoch integer not null, block_id text not null unique,
    proposer text not null, time_ms integer not null, round integer not null, signatures integer not null,
    seconds real, bytes integer not null, primary key (chain, height)
) without rowid;
create table rounds (
    chain text not null, height integer not null, rule text not null, base_id text not null,
    council_height integer not null, aggregate_id text not null, next_base_id text not null,
    committed integer not null, accepted integer not null, unrevealed integer not null,
    loss_before_micro integer, loss_after_micro integer, weight integer not null,
    primary key (chain, height)
) without rowid;
create table updates (
    chain text not null, height integer not null, member text not null, blob_id text not null,
    byte_length integer not null, samples integer not null, saturated integer not null,
    loss_before_micro integer not null, loss_after_micro integer not null, weight integer not null,
    revealed integer not null, norm_ratio_micro integer, nearest_micro integer, previous_cos_micro integer,
    root_cos_micro integer, others_cos_micro integer, krum_micro integer, p_ppm integer,
    out_of_bounds integer, duplicate integer, repeated integer, unusual integer, alarm integer,
    primary key (chain, height, member)
) without rowid;
create table warnings (
    chain text not null, height integer not null, member text not null, tensor integer not null,
    chunk integer not null, reason text not null, primary key (chain, height, member, tensor, chunk, reason)
) without rowid;
create table standings (
    chain text not null, height integer not null, member text not null, case_id text not null,
    outcome text not null, primary key (chain, height, member)
) without rowid;
create table ballots (
    chain text not null, height integer not null, member text not null, loss_old_micro integer not null,
    loss_new_micro integer not null, approves integer not null, counted_in integer not null,
    primary key (chain, height, member)
) without rowid;
create table filters (
    chain text not null, height integer not null, name text not null, hashes integer not null,
    entries integer not null, bytes integer not null, primary key (chain, height, name)
) without rowid;
create table counted (
    council_height integer not null, chain text not null, height integer not null,
    aggregate_id text not null, weight integer not null, primary key (chain, height)
) without rowid;
create table compared (
    council_height integer not null, chain text not null, weight integer not null,
    others_cos_micro integer not null, root_cos_micro integer not null, flagged integer not null,
    primary key (council_height, chain)
) without rowid;
create table cases (
    case_id text primary key, council_height integer not null, chain text not null, epoch integer not null,
    height integer not null, block_id text not null, cause text not null, accused text,
    deadline_height integer not null, chunks integer not null
) without rowid;
create table candidates (
    case_id text not null, place integer not null, member text not null, score integer not null,
    blob_id text not null, with_cos_micro integer not null, without_cos_micro integer not null,
    own_cos_micro integer not null, primary key (case_id, place)
) without rowid;
create table measurements (
    case_id text not null, seat text not null, status integer not null, council_height integer not null,
    opening_id text not null, worst_ppm integer not null, disagree_ppm integer not null,
    expected_ppm integer not null, primary key (case_id, seat, status)
) without rowid;
create table outcomes (
    case_id text not null, council_height integer not null, outcome text not null,
    measurements integer not null, primary key (case_id, council_height)
) without rowid;
create table verdicts (
    case_id text not null, offence integer not null, council_height integer not null, chain text not null,
    epoch integer not null, height integer not null, accused text not null, signatures integer not null,
    primary key (case_id, offence)
) without rowid;
create index updates_of_member on updates (member, chain, height);
create index warnings_of_member on warnings (member, chain, height);
create index cases_of_accused on cases (accused);
create index measurements_of_seat on measurements (seat);
"""
