-- The sample database of the embedded PostgreSQL: a small homelab. Loaded by embedded-postgres.mjs; to load it elsewhere: psql "$DATABASE_URL" -f examples/sample.sql
CREATE TABLE hosts (
  id integer PRIMARY KEY,
  name text NOT NULL UNIQUE,
  address inet NOT NULL,
  role text NOT NULL,
  os text NOT NULL,
  cpu_cores integer NOT NULL,
  memory_gb integer NOT NULL
);

CREATE TABLE services (
  id integer PRIMARY KEY,
  host_id integer NOT NULL REFERENCES hosts (id),
  name text NOT NULL,
  port integer,
  version text NOT NULL,
  critical boolean NOT NULL DEFAULT false
);

CREATE TABLE backups (
  id integer PRIMARY KEY,
  service_id integer NOT NULL REFERENCES services (id),
  started_at timestamptz NOT NULL,
  seconds integer NOT NULL,
  bytes bigint NOT NULL,
  ok boolean NOT NULL,
  note text
);

CREATE INDEX services_host ON services (host_id);
CREATE INDEX backups_service ON backups (service_id, started_at);

COMMENT ON TABLE hosts IS 'Machines in the homelab';
COMMENT ON TABLE services IS 'What runs on each host';
COMMENT ON TABLE backups IS 'Backup runs, newest last';

INSERT INTO hosts VALUES
  (1, 'atlas',  '192.168.20.10', 'containers', 'Debian 13',     8, 32),
  (2, 'hestia', '192.168.20.11', 'storage',    'TrueNAS 25.10', 4, 64),
  (3, 'hermes', '192.168.20.1',  'router',     'OPNsense 26.1', 4, 8),
  (4, 'iris',   '192.168.20.12', 'media',      'Debian 13',     6, 16),
  (5, 'argus',  '192.168.30.20', 'camera',     'firmware 5.4',  1, 1);

INSERT INTO services VALUES
  (1,  1, 'postgres',       5432,  '18.1',      true),
  (2,  1, 'home-assistant', 8123,  '2026.10.2', true),
  (3,  1, 'mosquitto',      1883,  '2.1.0',     true),
  (4,  1, 'grafana',        3000,  '12.2.1',    false),
  (5,  1, 'open-webui',     3080,  '0.9.4',     false),
  (6,  2, 'nfs',            2049,  '4.2',       true),
  (7,  2, 'restic-rest',    8000,  '0.14.0',    true),
  (8,  3, 'unbound',        53,    '1.24.0',    true),
  (9,  3, 'wireguard',      51820, '1.0',       true),
  (10, 4, 'jellyfin',       8096,  '10.11.3',   false),
  (11, 4, 'immich',         2283,  '2.3.1',     false),
  (12, 5, 'rtsp',           554,   '5.4',       false);

INSERT INTO backups VALUES
  (1,  1,  '2026-11-14 02:15:00+00', 41,   3221225472,  true,  NULL),
  (2,  2,  '2026-11-15 04:30:00+00', 18,   402653184,   true,  NULL),
  (3,  11, '2026-11-15 03:00:00+00', 2711, 88046829568, true,  NULL),
  (4,  1,  '2026-11-15 02:15:00+00', 43,   3225419776,  true,  NULL),
  (5,  1,  '2026-11-16 02:15:00+00', 12,   0,           false, 'target full'),
  (6,  11, '2026-11-16 03:00:00+00', 95,   1288490188,  true,  'incremental'),
  (7,  1,  '2026-11-17 02:15:00+00', 44,   3234856960,  true,  'after clearing old snapshots'),
  (8,  4,  '2026-11-17 04:30:00+00', 6,    73400320,    true,  NULL),
  (9,  8,  '2026-11-18 09:12:00+00', 1,    184320,      true,  'configuration changed'),
  (10, 1,  '2026-11-18 02:15:00+00', 44,   3242196992,  true,  NULL),
  (11, 11, '2026-11-18 03:00:00+00', 120,  1610612736,  true,  'incremental'),
  (12, 9,  '2026-11-18 09:12:00+00', 1,    4096,        true,  'configuration changed'),
  (13, 2,  '2026-11-19 04:30:00+00', 19,   411041792,   true,  NULL),
  (14, 1,  '2026-11-19 02:15:00+00', 45,   3250585600,  true,  NULL),
  (15, 11, '2026-11-19 03:00:00+00', 0,    0,           false, 'repository locked');
