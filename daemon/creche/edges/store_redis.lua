-- Every move that the fleet's store knows, each done whole or not at all.
--
-- KEYS[1] is `{PREFIX}:meta`; all other keys begin as it does, so that a cluster keeps them in one slot. ARGV[1] names
-- the move, ARGV[2] the member that makes it. What the keys hold is told in store_redis.py.
--
-- A member that was declared gone may write nothing, and nobody writes about a task of another: hence each move about
-- a task begins with `mine`.

local base = string.sub(KEYS[1], 1, -5)
local me = ARGV[2]
local moves = {}

local function key(...)
  return base .. table.concat({...}, ':')
end

local function is_member(name)
  return redis.call('HEXISTS', key('members'), name) == 1
end

local function raise_head(seq)
  if tonumber(seq) > tonumber(redis.call('HGET', KEYS[1], 'head')) then
    redis.call('HSET', KEYS[1], 'head', seq)
  end
end

-- What stands in the way of a write about a task, or nil. `h` is its owner, epoch and seq.
local function mine(h, epoch)
  if not is_member(me) then return {'not_member'} end
  if not h[1] then return {'gone'} end
  if h[3] then return {'settled'} end
  if h[1] ~= me or h[2] ~= epoch then return {'not_owner'} end
end

local function set_status(id, pos, before, status)
  if before ~= status then
    redis.call('ZREM', key('by:status', before), id)
    redis.call('ZADD', key('by:status', status), pos, id)
    redis.call('HSET', key('t', id), 's', status)
  end
end

-- A write that changes nothing: whoever waits until it is kept knows that all is that came before it, by whomever.
local function prove()
  redis.call('HINCRBY', KEYS[1], 'probes', 1)
end

-- Messages, from an argument on; of each: id, when it is due, what is known of it, body. One that is there stays.
local function put_messages(from)
  for n = from, #ARGV, 4 do
    if redis.call('EXISTS', key('d', ARGV[n])) == 0 then
      redis.call('ZADD', key('outbox'), ARGV[n + 1], ARGV[n])
      redis.call('HSET', key('d', ARGV[n]), 'm', ARGV[n + 2], 'b', ARGV[n + 3])
    end
  end
end

-- Have all nodes look: something is wanted of one of them.
local function ring()
  redis.call('XADD', key('bell'), 'MAXLEN', '~', 100, '*', 'b', '')
end

-- id, "1" with a key, key, status, epoch, record, "1" with an input, input, owner ("" waits for one), how many may wait,
-- priority, names of indexes …
function moves.accept()
  local id, has_key, name, status = ARGV[3], ARGV[4] == '1', ARGV[5], ARGV[6]
  local first = redis.call('EXISTS', key('t', id)) == 1 and id
  if not first and has_key then first = redis.call('HGET', key('keys'), name) end
  if first then
    prove()
    local h = redis.call('HMGET', key('t', first), 'r', 'i', 'e')
    return {'stands', h[1], h[2], h[3]}
  end
  local owner = ARGV[11]
  if owner ~= '' and not is_member(owner) then return {'not_member'} end
  if owner == '' and redis.call('ZCARD', key('waiting')) >= tonumber(ARGV[12]) then return {'full'} end
  local pos = redis.call('HINCRBY', KEYS[1], 'pos', 1)
  redis.call('HSET', key('t', id), 'r', ARGV[8], 'o', owner, 'e', ARGV[7], 's', status, 'p', pos)
  if ARGV[9] == '1' then redis.call('HSET', key('t', id), 'i', ARGV[10]) end
  if has_key then
    redis.call('HSET', key('keys'), name, id)
    redis.call('HSET', key('t', id), 'k', name)
  end
  redis.call('ZADD', key('by:status', status), pos, id)
  for n = 14, #ARGV do redis.call('ZADD', key('by', ARGV[n]), pos, id) end
  if owner ~= '' then
    redis.call('ZADD', key('owned', owner), pos, id)
  else
    redis.call('ZADD', key('waiting'), pos - 1e12 * tonumber(ARGV[13]), id)
    ring()
  end
  return {'accepted'}
end

-- id, epoch, status, record, and of each message about it what `put_messages` takes
function moves.save()
  local id, status = ARGV[3], ARGV[5]
  local h = redis.call('HMGET', key('t', id), 'o', 'e', 'q', 's', 'p')
  local refusal = mine(h, ARGV[4])
  if refusal then return refusal end
  redis.call('HSET', key('t', id), 'r', ARGV[6])
  set_status(id, h[5], h[4], status)
  redis.call('XADD', key('changes'), 'MAXLEN', '~', 1000, '*', 't', id)
  put_messages(7)
  return {'saved'}
end

-- id, epoch, status, record, "1" with a result apart, result, the least number that the entry may have, and of each
-- message about it what `put_messages` takes
function moves.settle()
  local id = ARGV[3]
  local h = redis.call('HMGET', key('t', id), 'o', 'e', 'q', 's', 'p')
  local refusal = mine(h, ARGV[4])
  if refusal and refusal[1] == 'settled' then
    prove()
    local first = redis.call('HMGET', key('t', id), 'r', 'i')
    return {'settled', h[3], first[1], first[2], h[2]}
  end
  if refusal then return refusal end
  -- As text: Lua would write a number of this size with an exponent.
  local seq = string.format('%d', math.max(tonumber(redis.call('HGET', KEYS[1], 'head')) + 1, tonumber(ARGV[9])))
  redis.call('HSET', key('t', id), 'r', ARGV[6], 'q', seq)
  if ARGV[7] == '1' then redis.call('SET', key('result', id), ARGV[8]) end
  set_status(id, h[5], h[4], ARGV[5])
  redis.call('HSET', KEYS[1], 'head', seq)
  redis.call('XADD', key('feed'), seq .. '-0', 't', id)
  redis.call('ZREM', key('owned', me), id)
  redis.call('HDEL', key('wishes'), id)
  put_messages(10)
  return {'entry', seq}
end

-- A task that retention removes, and the floor behind it: seq, id, names of indexes …
function moves.remove()
  local seq, id = ARGV[3], ARGV[4]
  local h = redis.call('HMGET', key('t', id), 'q', 's', 'k')
  if h[1] ~= seq then return {'gone'} end
  redis.call('ZREM', key('by:status', h[2]), id)
  for n = 5, #ARGV do redis.call('ZREM', key('by', ARGV[n]), id) end
  redis.call('DEL', key('t', id), key('result', id))
  if h[3] then redis.call('HDEL', key('keys'), h[3]) end
  redis.call('XDEL', key('feed'), seq .. '-0')
  if tonumber(seq) > tonumber(redis.call('HGET', KEYS[1], 'floor')) then redis.call('HSET', KEYS[1], 'floor', seq) end
  return {'removed'}
end

-- Ids, newest first, from the smallest index that has them all: how many, the pos below which, how many statuses,
-- statuses …, names of other indexes …. Looks at no more than some thousand, and says from where to go on ("": done).
function moves.find()
  local limit, top, count = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
  local wanted, bases, cards, filters = {}, {}, 0, {}
  for n = 6, 5 + count do
    wanted[ARGV[n]] = true
    bases[#bases + 1] = key('by:status', ARGV[n])
    cards = cards + redis.call('ZCARD', bases[#bases])
  end
  for n = 6 + count, #ARGV do
    local name = key('by', ARGV[n])
    local card = redis.call('ZCARD', name)
    if count == 0 or card < cards then bases, cards, count = {name}, card, -1 end
    filters[#filters + 1] = name
  end
  local found, looked = {}, 0
  while looked < 5000 do
    -- The next of each base, merged; below the last of one that may have more the others must wait.
    local rows, bound = {}, -1
    for _, name in ipairs(bases) do
      local part = redis.call('ZREVRANGEBYSCORE', name, top, '-inf', 'WITHSCORES', 'LIMIT', 0, 500)
      for n = 1, #part, 2 do rows[#rows + 1] = {tonumber(part[n + 1]), part[n]} end
      if #part == 1000 then bound = math.max(bound, tonumber(part[1000])) end
    end
    table.sort(rows, function(a, b) return a[1] > b[1] end)
    for _, row in ipairs(rows) do
      if row[1] < bound then break end
      local good = not next(wanted) or wanted[redis.call('HGET', key('t', row[2]), 's')]
      for _, name in ipairs(filters) do good = good and redis.call('ZSCORE', name, row[2]) end
      if good then found[#found + 1] = row[2] end
      top = '(' .. row[1]
      looked = looked + 1
      if #found == limit then return {top, found} end
    end
    if bound == -1 then return {'', found} end
  end
  return {top, found}
end

-- Nothing, but it proves that the server takes writes.
function moves.probe()
  prove()
  return {'good'}
end

-- -- membership ---------------------------------------------------------------------------------------

-- what others shall know of the member
function moves.join()
  redis.call('HSET', key('members'), me, ARGV[3])
  ring()
  return {'joined'}
end

-- Who leaves or was seen to be gone, and the beat that was last seen ("" to leave oneself).
function moves.bury()
  local name, seen = ARGV[3], ARGV[4]
  if seen ~= '' then
    if not is_member(me) then return {'not_member'} end
    if redis.call('HGET', key('members'), name) ~= seen then return {'alive'} end
  end
  redis.call('HDEL', key('members'), name)
  if redis.call('ZCARD', key('owned', name)) > 0 then redis.call('SADD', key('gone'), name) end
  ring()
  return {'buried'}
end

-- This member's portion of a limit that all share.
--
-- Nobody's grant is given to another before it is given back: what it was granted, or holds beyond that, counts. While
-- others starve, nobody has more than a fair part, nor more than it wants.
local function portion(name, limit, held, want, whole)
  local rows = redis.call('HGETALL', key('portion', name))
  local others, count, starving = 0, 1, false
  for n = 1, #rows, 2 do
    if rows[n] ~= me then
      local alive = is_member(rows[n])
      if alive or redis.call('SISMEMBER', key('gone'), rows[n]) == 1 then
        local grant, held_there, wanted = string.match(rows[n + 1], '(%S+) (%S+) (%S+)')
        others = others + math.max(tonumber(grant), tonumber(held_there))
        if alive then
          count = count + 1
          starving = starving or tonumber(wanted) > tonumber(grant)
        end
      else
        redis.call('HDEL', key('portion', name), rows[n])
      end
    end
  end
  local fair = limit / count
  if whole then fair = math.ceil(fair) end
  local grant = starving and math.min(want, fair) or math.max(want, fair)
  grant = math.max(0, math.min(grant, limit - others))
  redis.call('HSET', key('portion', name), me, string.format('%.6f %.6f %.6f', grant, held, want))
  return string.format('%.6f', grant)
end

-- what others shall know of the member, the last number of the feed that it has seen, all statuses there are, and of
-- each limit: name, limit, how much of it is held, how much is wanted, "1" for whole numbers
function moves.renew()
  if not is_member(me) then return {'not_member'} end
  redis.call('HSET', key('members'), me, ARGV[3])
  raise_head(ARGV[4])
  local portions = {}
  for n = 6, #ARGV, 5 do
    local limit, held, want = tonumber(ARGV[n + 1]), tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3])
    portions[#portions + 1] = portion(ARGV[n], limit, held, want, ARGV[n + 4] == '1')
  end
  local gone = {}
  for _, name in ipairs(redis.call('SMEMBERS', key('gone'))) do
    gone[#gone + 1] = name
    gone[#gone + 1] = redis.call('ZCARD', key('owned', name))
  end
  local counts = {}
  for status in string.gmatch(ARGV[5], '%S+') do
    counts[#counts + 1] = status
    counts[#counts + 1] = redis.call('ZCARD', key('by:status', status))
  end
  return {
    'renewed', redis.call('HGETALL', key('members')), gone, redis.call('ZCARD', key('waiting')),
    redis.call('HGETALL', key('wishes')), redis.call('ZCARD', key('owned', me)), portions, counts
  }
end

-- Take over up to so many tasks, first of members that are gone, then of those that wait.
function moves.adopt()
  if not is_member(me) then return {'not_member'} end
  local left = tonumber(ARGV[3])
  local taken = {}
  local function take(id, pos)
    local epoch = redis.call('HINCRBY', key('t', id), 'e', 1)
    redis.call('HSET', key('t', id), 'o', me)
    redis.call('ZADD', key('owned', me), pos, id)
    local h = redis.call('HMGET', key('t', id), 'r', 'i')
    taken[#taken + 1] = {h[1], h[2], epoch}
    left = left - 1
  end
  local gone = redis.call('SMEMBERS', key('gone'))
  table.sort(gone)
  for _, name in ipairs(gone) do
    local rows = left > 0 and redis.call('ZPOPMIN', key('owned', name), left) or {}
    for n = 1, #rows, 2 do take(rows[n], rows[n + 1]) end
    if redis.call('EXISTS', key('owned', name)) == 0 then redis.call('SREM', key('gone'), name) end
  end
  local rows = left > 0 and redis.call('ZPOPMIN', key('waiting'), left) or {}
  for n = 1, #rows, 2 do take(rows[n], redis.call('HGET', key('t', rows[n]), 'p')) end
  return {'adopted', taken}
end

-- What a client wants of a task, for its owner to do: id, wish.
function moves.wish()
  local h = redis.call('HMGET', key('t', ARGV[3]), 'o', 'q')
  if not h[1] or h[2] then return {'gone'} end
  redis.call('HSET', key('wishes'), ARGV[3], ARGV[4])
  ring()
  return {'wished'}
end

-- The owner has done, or refused, what was wished: id, the wish.
function moves.granted()
  if redis.call('HGET', key('wishes'), ARGV[3]) == ARGV[4] then redis.call('HDEL', key('wishes'), ARGV[3]) end
  return {'granted'}
end

-- -- messages that are yet to be delivered ---------------------------------------------------------------

-- Those that are due at a time; unless something is said of them they are due again at another: now, then, how many.
function moves.claim()
  local claimed = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('outbox'), '-inf', ARGV[3], 'LIMIT', 0, ARGV[5])) do
    redis.call('ZADD', key('outbox'), ARGV[4], id)
    claimed[#claimed + 1] = redis.call('HMGET', key('d', id), 'm', 'b')
  end
  return {'claimed', claimed}
end

-- An attempt failed: id, when it is due ("" gives it up), what is known of it, since when it is there.
function moves.put_off()
  local id, due = ARGV[3], ARGV[4]
  if redis.call('EXISTS', key('d', id)) == 0 then return {'gone'} end
  redis.call('HSET', key('d', id), 'm', ARGV[5])
  redis.call('ZREM', key('outbox'), id)
  redis.call('ZREM', key('given-up'), id)
  if due == '' then
    redis.call('ZADD', key('given-up'), ARGV[6], id)
  else
    redis.call('ZADD', key('outbox'), due, id)
  end
  return {'put_off'}
end

-- Messages that go: ids.
function moves.drop()
  for n = 3, #ARGV do
    redis.call('DEL', key('d', ARGV[n]))
    redis.call('ZREM', key('outbox'), ARGV[n])
    redis.call('ZREM', key('given-up'), ARGV[n])
  end
  return {'dropped'}
end

-- Messages that are due now: when that is, ids.
function moves.again()
  local found = {}
  for n = 4, #ARGV do
    if redis.call('EXISTS', key('d', ARGV[n])) == 1 then
      redis.call('ZREM', key('given-up'), ARGV[n])
      redis.call('ZADD', key('outbox'), ARGV[3], ARGV[n])
      found[#found + 1] = ARGV[n]
    end
  end
  return {'found', found}
end

-- A server that came up without its data must not be taken for one that has none.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'empty'} end
return moves[ARGV[1]]()
