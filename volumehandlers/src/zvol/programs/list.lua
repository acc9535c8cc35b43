-- Lists a volume's snapshots, changing nothing. A line each: name, guid, transaction group, time, size; then, each in its
-- own column behind "holds" and "clones", what keeps it from being destroyed.
-- Argument: dataset.
local given = ...
local argv = given["argv"]
local dataset = argv and argv[1] or given["1"]

if not zfs.exists(dataset) then return "missing\t" .. dataset end
local lines = {}
for snapshot in zfs.list.snapshots(dataset) do
    local columns = { snapshot }
    for _, property in ipairs({ "guid", "createtxg", "creation", "volsize" }) do
        local value = zfs.get_prop(snapshot, property)
        columns[#columns + 1] = tostring(value)
    end
    columns[#columns + 1] = "holds"
    for tag in zfs.list.holds(snapshot) do columns[#columns + 1] = tag end
    columns[#columns + 1] = "clones"
    for clone in zfs.list.clones(snapshot) do columns[#columns + 1] = clone end
    lines[#lines + 1] = table.concat(columns, "\t")
end
return "listed\n" .. table.concat(lines, "\n")
