import json,glob,sys,shutil,os
src,dst=sys.argv[1:3]
def key(d): 
    c=d["config"]; return json.dumps([c["dataset"],c["model"],c["attack"],c["defense"],c["budget"],c["reserve"],d["seed"]],sort_keys=True)
new={}
for f in glob.glob(src+"/*/record.json"): d=json.load(open(f)); new[key(d)]=(f,os.path.basename(os.path.dirname(f)))
old=0
for f in glob.glob(dst+"/*.json"):
    if key(json.load(open(f))) in new: os.remove(f); old+=1
os.makedirs(dst,exist_ok=True)
for f,i in new.values(): shutil.copy(f,f"{dst}/{i}.json")
print(len(new),"new,",old,"replaced")
