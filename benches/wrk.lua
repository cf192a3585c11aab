-- Load on /new that finds repeats: every id of every answer is checked against all others, exactly.
--
--   wrk -t2 -c64 -d10s --latency -s benches/wrk.lua http://localhost:8000/new
--
-- After wrk's own report it prints one `name value` a line, and ends with exit code 1 if an id came twice. Reading the
-- answers costs wrk time: for the highest requests a second, run wrk without it.
--
-- What always holds:
-- - An id is a bit. Each thread of wrk has a Lua state of its own, and sets bits in pages of PAGE_IDS ids; `done` merges
--   the pages. What is repeated is what was counted and adds no bit.
-- - The pages are allocated by C: what Lua allocates has a limit, and could not be seen by the state that runs `done`.
-- - Memory is bounded: a thread has at most MAX_PAGES pages. Ids in a row take a bit each, so only ids that lie far
--   apart can reach that; those past it are not checked, and counted as `unchecked`.

local ffi = require("ffi")

local PAGE_IDS = 100000 -- a power of ten: of an id past 2^53, which no Lua number holds, the digits can be split
local PAGE_DIGITS = 5
local PAGE_WORDS = PAGE_IDS / 32
local MAX_PAGES = 40000 -- 12.5 kB each: 500 MB a thread
local EXACT_DIGITS = 15 -- ids with more digits may be past 2^53

ffi.cdef([[
typedef struct page { struct page *next; double number; uint32_t words[3125]; } page;
void *calloc(size_t count, size_t size);
]])

local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local floor = math.floor

-- In the state of `setup` and `done`.
local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

-- What `done` reads of each thread; globals, because that is what thread:get() finds.
ids, errors, unchecked, last_page = 0, 0, 0, 0

local pages, page_count = {}, 0

local function new_page(number)
  if page_count == MAX_PAGES then
    return nil
  end
  local page = ffi.cast("page *", ffi.C.calloc(1, ffi.sizeof("page")))
  if page == nil then
    return nil
  end
  -- The pages are a list that its last one stands for: an address fits in a number, and that is what one state can
  -- hand to another.
  page.next, page.number = ffi.cast("page *", last_page), number
  last_page = tonumber(ffi.cast("uintptr_t", page))
  pages[number], page_count = page, page_count + 1
  return page
end

local function mark(digits)
  local number, offset
  if #digits <= EXACT_DIGITS then
    local id = tonumber(digits)
    number = floor(id / PAGE_IDS)
    offset = id - number * PAGE_IDS
  else
    number, offset = tonumber(digits:sub(1, -PAGE_DIGITS - 1)), tonumber(digits:sub(-PAGE_DIGITS))
  end
  local page = pages[number] or new_page(number)
  if not page then
    unchecked = unchecked + 1
    return
  end
  ids = ids + 1
  local word = rshift(offset, 5)
  page.words[word] = bor(page.words[word], lshift(1, band(offset, 31)))
end

function response(status, _, body)
  local digits = status == 200 and body:match('"id":(%d+)[,}]')
  if digits and #digits <= 20 then
    mark(digits)
  else
    errors = errors + 1
  end
end

local function ones(word)
  local n = 0
  while word ~= 0 do
    word, n = band(word, word - 1), n + 1
  end
  return n
end

-- How many different ids the threads have marked.
local function distinct()
  local merged, n = {}, 0
  for _, thread in ipairs(threads) do
    local page = ffi.cast("page *", thread:get("last_page"))
    while page ~= nil do
      local into = merged[page.number]
      if into then
        for word = 0, PAGE_WORDS - 1 do
          into.words[word] = bor(into.words[word], page.words[word])
        end
      else
        merged[page.number] = page
      end
      page = page.next
    end
  end
  for _, page in pairs(merged) do
    for word = 0, PAGE_WORDS - 1 do
      -- As a signed number, which is what the bit operations give and take.
      n = n + ones(bor(page.words[word], 0))
    end
  end
  return n
end

local function sum(name)
  local n = 0
  for _, thread in ipairs(threads) do
    n = n + thread:get(name)
  end
  return n
end

function done(summary, latency)
  local counted = sum("ids")
  local repeats = counted - distinct()
  local broken = summary.errors.connect + summary.errors.read + summary.errors.write
  local function line(name, format, value)
    io.write(string.format("%-20s " .. format .. "\n", name, value))
  end
  io.write("\n")
  line("requests", "%d", summary.requests)
  line("ids", "%d", counted)
  line("errors", "%d", sum("errors")) -- answers that are not 200, or have no id
  line("repeats", "%d", repeats)
  line("unchecked", "%d", sum("unchecked"))
  line("broken_connections", "%d", broken)
  line("timeouts", "%d", summary.errors.timeout)
  line("requests_per_second", "%.0f", summary.requests / (summary.duration / 1e6))
  line("p50_ms", "%.3f", latency:percentile(50) / 1000)
  line("p99_ms", "%.3f", latency:percentile(99) / 1000)
  line("p99.9_ms", "%.3f", latency:percentile(99.9) / 1000)
  if repeats > 0 then
    io.write("\nids were handed out twice\n")
    os.exit(1)
  end
end
