#!/bin/sh
# Runs once, when the data directory of the first primary is made: roles, database, replication slots, and the function
# through which PgBouncer looks up passwords.
set -eu

secret() { cat "/run/secrets/$1"; }

psql -v ON_ERROR_STOP=1 --username postgres --dbname postgres \
  -v service="$(secret postgres-password)" \
  -v monitor="$(secret postgres-monitor-password)" \
  -v replicator="$(secret postgres-replicator-password)" \
  -v lookup="$(secret pgbouncer-lookup-password)" <<'SQL'
-- pg_monitor: the state of the WAL receiver, by which replica-service proves staleness, is hidden from other roles.
create role mainstay login password :'service' in role pg_monitor;
create role mainstay_monitor login password :'monitor' in role pg_monitor connection limit 10;
create role replicator login replication password :'replicator';
create role pgbouncer login password :'lookup' connection limit 10;
create database mainstay owner mainstay;
-- Reserved at once: else a checkpoint between the copy of one replica and that of the other takes away what is needed.
select pg_create_physical_replication_slot('postgres_replica1', true);
select pg_create_physical_replication_slot('postgres_replica2', true);
\connect mainstay
create extension if not exists pg_stat_statements;
create schema pgbouncer authorization pgbouncer;
-- Runs as its owner, a superuser, and gives away the one row that is asked for; superusers never.
create function pgbouncer.lookup(in wanted text, out name text, out password text) returns record
  language sql security definer set search_path = pg_catalog
  as $$ select usename::text, passwd from pg_shadow where usename = wanted and not usesuper $$;
revoke all on function pgbouncer.lookup(text) from public;
grant execute on function pgbouncer.lookup(text) to pgbouncer;
SQL
