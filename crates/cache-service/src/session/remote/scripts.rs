//! The scripts. KEYS of each: what the keys of sessions begin with, what those of users begin with. The keys made from them are
//! not declared, which Dragonfly wants to be told in the first line; Redis and Valkey read a comment there.
//!
//! Each gives a list of texts: "ok" or why not, then what its Rust side reads.

/// Puts what all scripts use in front.
macro_rules! script {
    ($body:literal) => {
        concat!(
            r"--!df flags=allow-undeclared-keys
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local sessions, users = KEYS[1], KEYS[2]

local function text(number) return string.format('%.0f', number) end

local function resolve(handle)
  local first = handle
  for _ = 1, 8 do
    local to = redis.call('HGET', sessions .. handle, 'to')
    if not to then break end
    handle = to
  end
  return handle, handle ~= first
end

local function load(handle)
  local flat = redis.call('HGETALL', sessions .. handle)
  local session = {}
  for i = 1, #flat, 2 do session[flat[i]] = flat[i + 1] end
  return session.u and session or nil
end

local function arm(handle, session)
  local ends = math.min(session.s + session.t, tonumber(session.x))
  local user = users .. session.u
  redis.call('PEXPIREAT', sessions .. handle, text(ends))
  redis.call('ZADD', user, text(ends), handle)
  if redis.call('PTTL', user) < ends - now then redis.call('PEXPIREAT', user, text(ends)) end
end

local function drop(handle, user)
  redis.call('ZREM', users .. user, handle)
  return redis.call('DEL', sessions .. handle)
end

local function tell(answer, handle, session)
  local at, n = #answer, 0
  answer[at + 1] = handle
  answer[at + 2] = '0'
  for name, value in pairs(session) do
    answer[#answer + 1] = name
    answer[#answer + 1] = value
    n = n + 1
  end
  answer[at + 2] = text(n)
  return answer
end
",
            $body
        )
    };
}

/// ARGV: handle, user, ttl, age, most per user, 1 to revoke, then names and values. Gives the time and how many were revoked.
pub(super) const CREATE: &str = script!(
    r"
local handle, name = ARGV[1], ARGV[2]
local user = users .. name
redis.call('ZREMRANGEBYSCORE', user, '-inf', text(now))
local excess = redis.call('ZCARD', user) + 1 - ARGV[5]
if excess > 0 then
  if ARGV[6] ~= '1' then return {'full'} end
  for _, old in ipairs(redis.call('ZRANGE', user, 0, excess - 1)) do drop(old, name) end
end
local session = {u = name, c = text(now), s = text(now), t = ARGV[3], x = text(now + ARGV[4]), v = '1'}
for i = 7, #ARGV, 2 do session['f:' .. ARGV[i]] = ARGV[i + 1] end
local flat = {}
for name, value in pairs(session) do
  flat[#flat + 1] = name
  flat[#flat + 1] = value
end
redis.call('HSET', sessions .. handle, unpack(flat))
arm(handle, session)
return {'ok', text(now), text(math.max(0, excess))}
"
);

/// ARGV: handle, 1 to touch now, 2 to touch soon. Gives whether the id was rotated, the time if a touch is due and left to a
/// later step, and the session. One that ends within two seconds does not wait for that.
pub(super) const GET: &str = script!(
    r"
local handle, rotated = resolve(ARGV[1])
local session = load(handle)
if not session then return {'gone'} end
local due = '0'
if ARGV[2] ~= '0' and now - session.s >= math.floor(session.t / 10) then
  local ends = math.min(session.s + session.t, tonumber(session.x))
  if ARGV[2] == '1' or ends - now < 2000 then
    session.s = text(now)
    redis.call('HSET', sessions .. handle, 's', session.s)
    arm(handle, session)
  else
    due = text(now)
  end
end
return tell({'ok', rotated and '1' or '0', due}, handle, session)
"
);

/// ARGV: handles, each with the time when it was seen. Gives nothing.
pub(super) const TOUCH: &str = script!(
    r"
for i = 1, #ARGV, 2 do
  local handle = resolve(ARGV[i])
  local session = load(handle)
  if session and tonumber(ARGV[i + 1]) > tonumber(session.s) then
    session.s = ARGV[i + 1]
    redis.call('HSET', sessions .. handle, 's', session.s)
    arm(handle, session)
  end
end
return {'ok'}
"
);

/// ARGV: handle, version or nothing, most bytes, most fields, how many to set, their names and values, names to remove. Gives the
/// session.
pub(super) const UPDATE: &str = script!(
    r"
local handle = resolve(ARGV[1])
local session = load(handle)
if not session then return {'gone'} end
if ARGV[2] ~= '' and session.v ~= ARGV[2] then return {'mismatch', session.v} end
local set, removed = {}, {}
local last = 5 + 2 * ARGV[5]
for i = 6, last, 2 do
  local name = 'f:' .. ARGV[i]
  session[name] = ARGV[i + 1]
  set[#set + 1] = name
  set[#set + 1] = ARGV[i + 1]
end
for i = last + 1, #ARGV do
  session['f:' .. ARGV[i]] = nil
  removed[#removed + 1] = 'f:' .. ARGV[i]
end
local bytes, n = 0, 0
for name, value in pairs(session) do
  if string.sub(name, 1, 2) == 'f:' then
    bytes = bytes + #name - 2 + #value
    n = n + 1
  end
end
if bytes > tonumber(ARGV[3]) or n > tonumber(ARGV[4]) then return {'large'} end
session.v = text(session.v + 1)
set[#set + 1] = 'v'
set[#set + 1] = session.v
redis.call('HSET', sessions .. handle, unpack(set))
if #removed > 0 then redis.call('HDEL', sessions .. handle, unpack(removed)) end
return tell({'ok'}, handle, session)
"
);

/// ARGV: old handle, new handle, grace. Gives the session.
pub(super) const ROTATE: &str = script!(
    r"
local old, new = ARGV[1], ARGV[2]
if redis.call('HEXISTS', sessions .. old, 'to') == 1 then return {'rotated'} end
local session = load(old)
if not session then return {'gone'} end
redis.call('RENAME', sessions .. old, sessions .. new)
redis.call('ZREM', users .. session.u, old)
arm(new, session)
if ARGV[3] ~= '0' then
  redis.call('HSET', sessions .. old, 'to', new)
  redis.call('PEXPIRE', sessions .. old, ARGV[3])
end
return tell({'ok'}, new, session)
"
);

/// ARGV: handle. Gives how many were revoked.
pub(super) const REVOKE: &str = script!(
    r"
local handle = resolve(ARGV[1])
local session = load(handle)
if not session then return {'ok', '0'} end
return {'ok', text(drop(handle, session.u))}
"
);

/// ARGV: user, most. Gives the sessions.
pub(super) const LIST: &str = script!(
    r"
local answer = {'ok'}
for _, handle in ipairs(redis.call('ZRANGE', users .. ARGV[1], 0, ARGV[2] - 1)) do
  local session = load(handle)
  if session then tell(answer, handle, session) end
end
return answer
"
);

/// ARGV: user, handle to spare or nothing. Gives how many were revoked.
pub(super) const REVOKE_USER: &str = script!(
    r"
local spared, n = resolve(ARGV[2]), 0
for _, handle in ipairs(redis.call('ZRANGE', users .. ARGV[1], 0, -1)) do
  if handle ~= spared then n = n + drop(handle, ARGV[1]) end
end
return {'ok', text(n)}
"
);
